internal import PolarCore

/// Typed access to the members of a `config.json`; `null` counts as absent.
struct ConfigFields {
  let members: [String: JSON]
  let path: String

  func has(_ key: String) -> Bool { value(key) != nil }

  private func value(_ key: String) -> JSON? {
    guard let value = members[key], value != .null else { return nil }
    return value
  }

  private func mismatch(_ key: String, _ wanted: String) -> PolarError {
    .configuration(field: key, reason: "not \(wanted) in \(path)")
  }

  /// A whole number, `fallback` where the key is absent, nil where it is `null`.
  func int(_ key: String, absent fallback: Int?) throws(PolarError) -> Int? {
    members[key] == nil ? fallback : try int(key)
  }

  func int(_ key: String) throws(PolarError) -> Int? {
    guard let value = value(key) else { return nil }
    guard let int = value.int else { throw mismatch(key, "a whole number") }
    return int
  }

  func required(_ key: String) throws(PolarError) -> Int {
    guard let int = try int(key) else { throw .configuration(field: key, reason: "missing in \(path)") }
    return int
  }

  func number(_ key: String) throws(PolarError) -> Double? {
    guard let value = value(key) else { return nil }
    guard let number = value.double else { throw mismatch(key, "a number") }
    return number
  }

  func flag(_ key: String) throws(PolarError) -> Bool? {
    guard let value = value(key) else { return nil }
    guard let flag = value.flag else { throw mismatch(key, "true or false") }
    return flag
  }

  func text(_ key: String) throws(PolarError) -> String? {
    guard let value = value(key) else { return nil }
    guard let text = value.text else { throw mismatch(key, "a string") }
    return text
  }

  /// A list of strings.
  func texts(_ key: String) throws(PolarError) -> [String]? {
    guard let value = value(key) else { return nil }
    guard let items = value.items else { throw mismatch(key, "a list") }
    var texts: [String] = []
    for item in items {
      guard let text = item.text else { throw mismatch(key, "a list of strings") }
      texts.append(text)
    }
    return texts
  }

  /// One id, a list of ids, or nothing.
  func tokens(_ key: String) throws(PolarError) -> [Int32] {
    guard let value = value(key) else { return [] }
    var tokens: [Int32] = []
    for item in value.items ?? [value] {
      guard let id = item.int, let token = Int32(exactly: id) else { throw mismatch(key, "a token id") }
      if !tokens.contains(token) { tokens.append(token) }
    }
    return tokens
  }

  /// The activation named `key`; ProSparse's files have FATReLU with its threshold in `hidden_act_param`.
  func activation(
    _ key: String, default fallback: ModelConfig.Activation
  ) throws(PolarError) -> (kind: ModelConfig.Activation, threshold: Float) {
    switch try text(key) {
    case nil: return (fallback, 0)
    case "silu", "swish": return (.silu, 0)
    case "relu": return (.relu, 0)
    case "gelu": return (.gelu, 0)
    case "fatrelu":
      guard let threshold = try number("hidden_act_param") else {
        throw .configuration(field: "hidden_act_param", reason: "missing beside fatrelu in \(path)")
      }
      return (.relu, Float(threshold))
    case .some(let name): throw .unsupported(path: path, what: "activation '\(name.prefix(60))'")
    }
  }

  /// Rotary base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.
  func rope() throws(PolarError) -> (theta: Double, scaling: ModelConfig.RopeScaling) {
    let theta = try number("rope_theta")
    for key in ["rope_parameters", "rope_scaling"] {
      guard let value = value(key) else { continue }
      guard let members = value.members else { throw mismatch(key, "an object") }
      let rope = ConfigFields(members: members, path: path)
      if try rope.number("partial_rotary_factor") ?? 1 != 1 {
        throw .unsupported(path: path, what: "partial rotary embeddings")
      }
      return (try rope.number("rope_theta") ?? theta ?? 10000, try rope.scaling())
    }
    if try number("partial_rotary_factor") ?? 1 != 1 {
      throw .unsupported(path: path, what: "partial rotary embeddings")
    }
    return (theta ?? 10000, .none)
  }

  private func scaling() throws(PolarError) -> ModelConfig.RopeScaling {
    var type = try text("rope_type")
    if type == nil { type = try text("type") }
    func needed(_ key: String) throws(PolarError) -> Double {
      guard let value = try number(key) else {
        throw .configuration(field: "rope \(key)", reason: "missing in \(path)")
      }
      return value
    }
    switch type {
    case "default": return .none
    case "linear": return .linear(factor: try needed("factor"))
    case "llama3":
      guard let originalContext = Int(exactly: try needed("original_max_position_embeddings")) else {
        throw mismatch("original_max_position_embeddings", "a whole number")
      }
      return .llama3(
        factor: try needed("factor"), lowFrequencyFactor: try needed("low_freq_factor"),
        highFrequencyFactor: try needed("high_freq_factor"), originalContext: originalContext)
    case nil:
      // transformers 5 writes the base alone for models without scaling.
      guard Set(members.keys).isSubset(of: ["rope_theta", "partial_rotary_factor"]) else {
        throw .configuration(field: "rope_type", reason: "missing in \(path)")
      }
      return .none
    case .some(let name): throw .unsupported(path: path, what: "rope type '\(name.prefix(60))'")
    }
  }
}
