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

  /// Bytes of memory that this process may still take: the kernel's estimate, or what the control group leaves, if
  /// that is less. Nil where the system does not say.
  public static func availableMemory() -> Int? {
    guard let system = memoryInfo("MemAvailable:") else { return nil }
    guard let limit = firstNumber("/sys/fs/cgroup/memory.max"),
      let current = firstNumber("/sys/fs/cgroup/memory.current")
    else { return system }
    // Page cache of the group counts as used, but the kernel drops it before it refuses memory.
    let reclaimable = controlGroupStatistic("inactive_file") ?? 0
    return min(system, max(0, limit - current + reclaimable))
  }

  private static func memoryInfo(_ key: String) -> Int? {
    guard let text = read("/proc/meminfo") else { return nil }
    for line in text.split(separator: "\n") where line.hasPrefix(key) {
      let fields = line.split(separator: " ")
      return fields.count > 1 ? Int(fields[1]).map { $0 * 1024 } : nil
    }
    return nil
  }

  private static func controlGroupStatistic(_ key: String) -> Int? {
    guard let text = read("/sys/fs/cgroup/memory.stat") else { return nil }
    for line in text.split(separator: "\n") where line.hasPrefix(key + " ") {
      return line.split(separator: " ").last.flatMap { Int($0) }
    }
    return nil
  }

  private static func firstNumber(_ path: String) -> Int? {
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
