import Foundation

/// What the system knows of this process; nil where it does not tell.
enum ProcessFacts {
  /// Seconds since the process was started, in steps of about 10 ms.
  static var age: Double? {
    guard let stat = try? String(contentsOfFile: "/proc/self/stat", encoding: .utf8),
      let uptime = try? String(contentsOfFile: "/proc/uptime", encoding: .utf8),
      let now = uptime.split(separator: " ").first.flatMap({ Double($0) }),
      // The name, in parentheses, may hold spaces; the start time is the 20th field behind it.
      let fields = stat.split(separator: ")").last?.split(separator: " "), fields.count > 19,
      let ticks = Double(fields[19])
    else { return nil }
    return now - ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
  }

  /// The most memory that the process has had resident, in bytes, mapped files included.
  static var peakMemory: Int? {
    guard let status = try? String(contentsOfFile: "/proc/self/status", encoding: .utf8) else { return nil }
    let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
    return line?.split(separator: " ").dropFirst().first.flatMap { Int($0) }.map { $0 * 1024 }
  }
}

/// What a start cost, in one line: seconds from the process's start to the loaded model and to the first text, and memory.
func startLine(loaded: Double?, firstText: Double?, weightBytes: Int) -> String {
  var parts = ["\(bytesText(weightBytes)) of weights"]
  if let loaded { parts.append("loaded \(fixed(loaded, 2)) s after the process began") }
  if let firstText { parts.append("first text after \(fixed(firstText, 2)) s") }
  if let peak = ProcessFacts.peakMemory { parts.append("at most \(bytesText(peak)) resident") }
  return parts.joined(separator: ", ")
}
