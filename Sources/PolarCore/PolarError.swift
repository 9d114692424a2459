/// What can go wrong in Polar, each with one line that names what and where.
public enum PolarError: Error, Sendable, Equatable, CustomStringConvertible {
  /// A file cannot be opened, read or written.
  case file(path: String, reason: String)
  /// A file's content breaks its format; `offset`-like detail belongs in `reason`.
  case malformed(path: String, reason: String)
  /// A file is well formed but says something that Polar does not support.
  case unsupported(path: String, what: String)
  /// A model's configuration is not one that can run.
  case configuration(field: String, reason: String)
  /// A tensor is missing, left over, or of another shape than the model needs.
  case weight(name: String, reason: String)
  /// A sparsity profile does not fit.
  case profile(path: String, reason: String)
  /// A request is not valid.
  case request(field: String, reason: String)
  /// Memory could not be had.
  case outOfMemory(what: String, bytes: Int)
  /// A device, or a library that drives it, is missing or failed.
  case device(name: String, reason: String)

  /// One line: what is wrong and where; a device's compiler may say more. Control characters, which a hostile file may have
  /// put into a name, are spelled out, so that they do not act on a terminal.
  public var description: String {
    func acts(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.generalCategory == .control }
    if case .device = self { return text }
    guard text.unicodeScalars.contains(where: acts) else { return text }
    return text.unicodeScalars.map { acts($0) ? $0.escaped(asASCII: true) : String($0) }.joined()
  }

  private var text: String {
    switch self {
    case .file(let path, let reason): "\(path): \(reason)"
    case .malformed(let path, let reason): "\(path): malformed: \(reason)"
    case .unsupported(let path, let what): "\(path): unsupported: \(what)"
    case .configuration(let field, let reason): "model configuration: \(field): \(reason)"
    case .weight(let name, let reason): "weight '\(name)': \(reason)"
    case .profile(let path, let reason): "profile \(path): \(reason)"
    case .request(let field, let reason): "request: \(field): \(reason)"
    case .outOfMemory(let what, let bytes): "out of memory: \(what) needs \(bytes) bytes"
    case .device(let name, let reason): "\(name): \(reason)"
    }
  }
}
