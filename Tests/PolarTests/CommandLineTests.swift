import Foundation
import Testing

/// The command line as a user runs it: the built executable in a process of its own.
@Suite struct CommandLineTests {
  private struct Outcome {
    var status: Int32
    var output: String
    var error: String
  }

  /// The `polar` executable beside the test bundle.
  private static let executable: URL? = {
    let bundle = Bundle.allBundles.first { $0.bundlePath.hasSuffix(".xctest") }
    let folders = [bundle?.bundleURL, URL(fileURLWithPath: CommandLine.arguments[0])]
    return folders.compactMap { $0?.deletingLastPathComponent().appendingPathComponent("polar") }
      .first { FileManager.default.isExecutableFile(atPath: $0.path) }
  }()

  private static var demo: String {
    URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appendingPathComponent("Sources/Polar/Resources/demo").path
  }

  private func polar(_ arguments: String...) throws -> Outcome {
    let process = Process()
    let executable: URL = try #require(Self.executable, "the polar executable was not built")
    process.executableURL = executable
    process.arguments = arguments
    let (output, error) = (Pipe(), Pipe())
    process.standardOutput = output
    process.standardError = error
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let text = output.fileHandleForReading.readDataToEndOfFile()
    let message = error.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return Outcome(
      status: process.terminationStatus, output: String(decoding: text, as: UTF8.self),
      error: String(decoding: message, as: UTF8.self))
  }

  /// Fails with a status other than 0 and an error line that has all of `words`.
  private func expectRefusal(
    _ outcome: Outcome, _ words: String..., location: SourceLocation = #_sourceLocation
  ) {
    #expect(outcome.status != 0, sourceLocation: location)
    #expect(outcome.status < 128, "it crashed: \(outcome.error)", sourceLocation: location)
    for word in words {
      #expect(outcome.error.contains(word), "\(outcome.error)", sourceLocation: location)
    }
  }

  @Test func inspectsAModel() throws {
    let outcome = try polar("inspect", Self.demo)
    #expect(outcome.status == 0)
    #expect(outcome.output.contains("opt"))
    #expect(outcome.output.contains("KV cache"))
  }

  @Test func generatesText() throws {
    let outcome = try polar("generate", Self.demo, "--prompt", "The house", "-n", "4", "--context", "64")
    #expect(outcome.status == 0)
    #expect(!outcome.output.isEmpty)
    #expect(outcome.error.contains("KV cache"))
  }

  @Test func continuesAFileOfPromptsInOrder() throws {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()).jsonl")
    defer { try? FileManager.default.removeItem(at: file) }
    try Data(
      """
      {"prompt": "The door was", "id": "a", "max_tokens": 3}

      {"prompt": "He", "max_tokens": 2}
      """.utf8
    ).write(to: file)
    let outcome = try polar("generate", Self.demo, "--prompts", file.path, "--context", "64")
    #expect(outcome.status == 0, "\(outcome.error)")
    let lines = outcome.output.split(separator: "\n")
    #expect(lines.count == 2)
    #expect(lines.first?.contains("\"id\":\"a\"") == true)
    #expect(lines.last?.contains("\"tokens\":2") == true)
  }

  @Test func refusesBadInputWithOneClearLine() throws {
    expectRefusal(try polar("inspect", "no-such-model.gguf"), "no-such-model.gguf")
    expectRefusal(try polar("generate", "/dev/null", "--prompt", "x"), "/dev/null")
    let empty = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: empty, withIntermediateDirectories: false)
    defer { try? FileManager.default.removeItem(at: empty) }
    expectRefusal(try polar("inspect", empty.path), "config.json")
    expectRefusal(
      try polar("generate", Self.demo, "--prompt", String(repeating: "word ", count: 4000)), "1024")
    expectRefusal(try polar("generate", Self.demo), "--prompt")
    expectRefusal(
      try polar("generate", Self.demo, "--prompt", "x", "--temperature", "-1"), "temperature")
    let profile = Self.demo + "/opt-books.profile.safetensors"
    for density in ["0", "-0.1", "1.01", "nan"] {
      expectRefusal(
        try polar(
          "generate", Self.demo, "--prompt", "x", "--profile", profile, "--density=\(density)"),
        "density")
    }
    expectRefusal(
      try polar("generate", Self.demo, "--prompt", "x", "--profile", "missing.safetensors"),
      "missing.safetensors")
    expectRefusal(
      try polar(
        "calibrate", Self.demo, "--text", Self.demo + "/prompts.txt", "--output",
        "/no/such/folder/p.safetensors"), "/no/such/folder")
    expectRefusal(try polar("perplexity", Self.demo, "--text", "missing.txt"), "missing.txt")
  }
}
