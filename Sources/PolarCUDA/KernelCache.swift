internal import Crypto
internal import Foundation
public import PolarCore

/// Machine code of the kernels: from an archive, from the cache on disk, or freshly compiled.
///
/// An entry of the cache is named by the SHA-256 of all that it depends on (sources, options, architecture, version of
/// the compiler) and holds its own digest, so that neither a stale nor a damaged file is ever used.
struct KernelCache: Sendable {
  /// Where cubins are kept; nil keeps none.
  let folder: URL?
  /// Compiled kernels that need no compiler.
  let archive: KernelArchive?

  init(folder: URL? = Self.defaultFolder, archive: KernelArchive? = KernelArchive.installed()) {
    self.folder = folder
    self.archive = archive
  }

  /// `$XDG_CACHE_HOME/polar/kernels`, or `~/.cache/polar/kernels`.
  static var defaultFolder: URL? {
    let environment = ProcessInfo.processInfo.environment
    if let cache = environment["XDG_CACHE_HOME"], cache.hasPrefix("/") {
      return URL(fileURLWithPath: cache).appendingPathComponent("polar/kernels")
    }
    guard let home = environment["HOME"], home.hasPrefix("/") else { return nil }
    return URL(fileURLWithPath: home).appendingPathComponent(".cache/polar/kernels")
  }

  /// The cubin of `unit`.
  /// - Throws: ``CUDAError`` when it must be compiled and cannot be.
  func image(of unit: KernelUnit, architecture: String) throws(CUDAError) -> [UInt8] {
    let key = Self.key(of: unit, architecture: architecture)
    if let archive {
      for architecture in Self.runnable(on: architecture) {
        if let image = archive.image(Self.key(of: unit, architecture: architecture)) { return image }
      }
    }
    let file = NVRTC.version.flatMap { version in
      folder?.appendingPathComponent(Self.hex(SHA256.hash(data: Data((key + " nvrtc " + version).utf8))))
        .appendingPathExtension("cubin")
    }
    if let file, let image = Self.read(file) { return image }
    let image = try NVRTC.compile(unit, architecture: architecture)
    // A cache that cannot be written costs time at the next start and nothing else.
    if let file { Self.write(image, to: file) }
    return image
  }

  /// Architectures whose machine code runs on a GPU of `architecture`, best first: its own, then those of its
  /// generation before it. Code with a generation's own instructions (`sm_90a`) runs on no other.
  static func runnable(on architecture: String) -> [String] {
    let digits = architecture.drop { !$0.isNumber }.prefix(while: \.isNumber)
    guard let number = Int(digits) else { return [architecture] }
    let earlier = (number / 10 * 10...number).reversed().map { "sm_\($0)" }
    return [architecture] + earlier.filter { $0 != architecture }
  }

  /// What a unit's machine code depends on, the compiler's version excepted, as a hex digest.
  static func key(of unit: KernelUnit, architecture: String) -> String {
    var hash = SHA256()
    func add(_ text: String) {
      // The length keeps the parts apart.
      hash.update(data: Data("\(text.utf8.count) ".utf8))
      hash.update(data: Data(text.utf8))
    }
    for source in [unit.source] + KernelSource.headers {
      add(source.name)
      add(source.text)
    }
    for option in NVRTC.options + unit.defines + [architecture] { add(option) }
    return hex(hash.finalize())
  }

  static func hex(_ digest: some Sequence<UInt8>) -> String {
    digest.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
  }

  private static let magic = Data("POLARKC1".utf8)

  /// The image of a cache file, or nil when it is missing or damaged.
  static func read(_ file: URL) -> [UInt8]? {
    guard let data = try? Data(contentsOf: file), data.count > magic.count + SHA256.byteCount,
      data.prefix(magic.count) == magic
    else { return nil }
    let digest = data.dropFirst(magic.count).prefix(SHA256.byteCount)
    let image = data.dropFirst(magic.count + SHA256.byteCount)
    return Array(SHA256.hash(data: image)) == Array(digest) ? Array(image) : nil
  }

  /// Writes a cache file under a name of its own and moves it into place, so that readers see all of it or nothing.
  @discardableResult
  static func write(_ image: [UInt8], to file: URL) -> Bool {
    let data = magic + Data(SHA256.hash(data: image)) + Data(image)
    do {
      try FileManager.default.createDirectory(
        at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try data.write(to: file, options: .atomic)
      return true
    } catch {
      return false
    }
  }
}

/// A file of compiled kernels for several architectures, for machines without NVRTC.
///
/// Layout: `POLARKA1`, the length of the table as u64, the table as JSON, then the images one after the other.
public struct KernelArchive: Sendable {
  private struct Entry: Codable {
    var unit: String
    var architecture: String
    /// The digest of sources, options and architecture.
    var key: String
    var offset: Int
    var size: Int
    /// SHA-256 of the image.
    var digest: String
  }

  /// The name of the file that is looked for beside the executable.
  public static let fileName = "polar.kernels"
  private static let magic = Data("POLARKA1".utf8)

  private let entries: [Entry]
  private let images: Data

  /// Architectures with at least one kernel, in order.
  public var architectures: [String] { Array(Set(entries.map(\.architecture))).sorted() }

  /// Opens an archive.
  /// - Throws: ``PolarError/file(path:reason:)`` when it cannot be read, ``PolarError/malformed(path:reason:)`` when it
  ///   is not an archive or is cut short.
  public init(path: String) throws(PolarError) {
    let data: Data
    do {
      data = try Data(contentsOf: URL(fileURLWithPath: path), options: .mappedIfSafe)
    } catch {
      throw .file(path: path, reason: "cannot be read")
    }
    func malformed(_ reason: String) -> PolarError { .malformed(path: path, reason: reason) }
    let start = Self.magic.count + 8
    guard data.count >= start, data.prefix(Self.magic.count) == Self.magic else {
      throw malformed("not an archive of kernels")
    }
    let lengthBytes = data.dropFirst(Self.magic.count).prefix(8)
    let length = lengthBytes.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    guard length <= UInt64(data.count - start) else { throw malformed("its table is cut short") }
    let table = data.dropFirst(start).prefix(Int(length))
    guard let entries = try? JSONDecoder().decode([Entry].self, from: Data(table)) else {
      throw malformed("its table is damaged")
    }
    let images = data.dropFirst(start + Int(length))
    for entry in entries {
      let (end, overflow) = entry.offset.addingReportingOverflow(entry.size)
      guard entry.offset >= 0, entry.size >= 0, !overflow, end <= images.count else {
        throw malformed("\(entry.unit) for \(entry.architecture) lies outside of the file")
      }
    }
    self.entries = entries
    self.images = images
  }

  /// The archive beside the executable, when there is one that can be read.
  static func installed() -> KernelArchive? {
    guard let executable = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") else {
      return nil
    }
    let path = URL(fileURLWithPath: executable).deletingLastPathComponent()
      .appendingPathComponent(fileName).path
    return FileManager.default.fileExists(atPath: path) ? try? KernelArchive(path: path) : nil
  }

  /// The image with the digest `key` of its sources, when it is there and undamaged.
  func image(_ key: String) -> [UInt8]? {
    guard let entry = entries.first(where: { $0.key == key }) else { return nil }
    let start = images.startIndex + entry.offset
    let image = images[start..<start + entry.size]
    return KernelCache.hex(SHA256.hash(data: image)) == entry.digest ? Array(image) : nil
  }

  /// Compiles all kernels for `architectures` (such as `sm_80`, `sm_90a`) and writes them to `path`.
  /// - Parameter progress: called with unit, architecture and size of each.
  /// - Throws: ``PolarError/device(name:reason:)`` when NVRTC is missing or refuses a kernel, and
  ///   ``PolarError/file(path:reason:)`` when the file cannot be written.
  public static func build(
    architectures: [String], path: String, progress: (String, String, Int) -> Void
  ) throws(PolarError) {
    try build(KernelUnit.archived, architectures: architectures, path: path, progress: progress)
  }

  static func build(
    _ units: [KernelUnit], architectures: [String], path: String, progress: (String, String, Int) -> Void
  ) throws(PolarError) {
    var entries: [Entry] = []
    var images = Data()
    for architecture in architectures {
      for unit in units {
        let image: [UInt8]
        do throws(CUDAError) {
          image = try NVRTC.compile(unit, architecture: architecture)
        } catch {
          throw error.asPolarError(device: "kernels for \(architecture)")
        }
        entries.append(
          Entry(
            unit: unit.name, architecture: architecture,
            key: KernelCache.key(of: unit, architecture: architecture), offset: images.count,
            size: image.count, digest: KernelCache.hex(SHA256.hash(data: image))))
        images += image
        progress(unit.name, architecture, image.count)
      }
    }
    do {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
      let table = try encoder.encode(entries)
      let length = Data((0..<8).map { UInt8(truncatingIfNeeded: UInt64(table.count) >> (8 * UInt64($0))) })
      try (magic + length + table + images).write(to: URL(fileURLWithPath: path), options: .atomic)
    } catch {
      throw .file(path: path, reason: "cannot be written")
    }
  }
}
