public import PolarCore
public import PolarFormats
import PolarModels

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// How many pages of KV cache fit into memory.
public enum KVBudget {
  /// Pages of 16 tokens over all layers that fit into `fraction` of `available` bytes after `reserved` bytes are put
  /// aside, and at most `most`.
  ///
  /// - Throws: ``PolarError/outOfMemory(what:bytes:)`` when not even one page fits.
  public static func pages(
    available: Int, config: ModelConfig, dtype: DType, fraction: Double = 0.8, reserved: Int = 0,
    most: Int = .max
  ) throws(PolarError) -> Int {
    let bytesPerPage = KVCache.bytesPerPage(config, dtype: dtype)
    guard bytesPerPage > 0, fraction > 0, fraction <= 1 else {
      throw .configuration(field: "fraction", reason: "must be over 0 and at most 1, is \(fraction)")
    }
    let usable = Double(max(0, available - reserved)) * fraction
    let pages = min(Int(usable) / bytesPerPage, most, Int(Int32.max) / KVPage.tokens)
    guard pages >= 1 else { throw .outOfMemory(what: "one page of KV cache", bytes: bytesPerPage) }
    return pages
  }

  /// Bytes of memory that this process may still take: the kernel's estimate, or what its control groups leave, if that
  /// is less. Nil where the system does not say.
  public static func availableMemory() -> Int? {
    guard let system = field("MemAvailable:", of: "/proc/meminfo").map({ $0 * 1024 }) else { return nil }
    return min(
      system, controlGroupMemory(membership: "/proc/self/cgroup", mount: "/sys/fs/cgroup") ?? system)
  }

  /// Bytes of swap that are free.
  static func freeSwap() -> Int { (field("SwapFree:", of: "/proc/meminfo") ?? 0) * 1024 }

  /// Bytes that the control groups of a process leave it; nil when they set no limit.
  ///
  /// - Parameters:
  ///   - membership: its `/proc/PID/cgroup`.
  ///   - mount: where the hierarchies are mounted, such as `/sys/fs/cgroup`.
  static func controlGroupMemory(membership: String, mount: String) -> Int? {
    var least: Int?
    // Lines "hierarchy:controllers:group"; version 2 has no controllers.
    for line in (read(membership) ?? "").split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard parts.count == 3 else { continue }
      let isUnified = parts[1].isEmpty
      guard isUnified || parts[1].split(separator: ",").contains("memory") else { continue }
      let root = isUnified ? mount : mount + "/memory"
      // The group and all above it; a container may see itself as the root, or a path that its mount does not have.
      var group = parts[2][...]
      while true {
        while group.last == "/" { group.removeLast() }
        if let left = isUnified ? unifiedGroup(root + group) : legacyGroup(root + group) {
          least = min(least ?? left, left)
        }
        guard let slash = group.lastIndex(of: "/") else { break }
        group = group[..<slash]
      }
    }
    return least
  }

  private static func unifiedGroup(_ folder: String) -> Int? {
    guard let limit = number(folder + "/memory.max"), let used = number(folder + "/memory.current") else {
      return nil
    }
    return left(of: limit, used: used, reclaimable: field("inactive_file", of: folder + "/memory.stat"))
  }

  private static func legacyGroup(_ folder: String) -> Int? {
    // Without a limit the number is the largest whole count of pages.
    guard let limit = number(folder + "/memory.limit_in_bytes"), limit < 1 << 60,
      let used = number(folder + "/memory.usage_in_bytes")
    else { return nil }
    return left(of: limit, used: used, reclaimable: field("total_inactive_file", of: folder + "/memory.stat"))
  }

  /// Page cache of a group counts as used, but the kernel drops it before it refuses memory.
  private static func left(of limit: Int, used: Int, reclaimable: Int?) -> Int {
    max(0, min(limit, limit - used + (reclaimable ?? 0)))
  }

  /// The number that follows `name` at the beginning of a line.
  private static func field(_ name: Substring, of path: String) -> Int? {
    for line in (read(path) ?? "").split(separator: "\n") {
      let words = line.split(separator: " ")
      if words.count > 1, words[0] == name { return Int(words[1]) }
    }
    return nil
  }

  private static func number(_ path: String) -> Int? {
    read(path).flatMap { $0.split(separator: "\n").first.flatMap { Int($0) } }
  }

  /// The first 16 KiB of a small system file.
  private static func read(_ path: String) -> String? {
    guard let file = fopen(path, "r") else { return nil }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 16384)
    let count = fread(&bytes, 1, bytes.count, file)
    return String(decoding: bytes[..<count], as: UTF8.self)
  }
}
