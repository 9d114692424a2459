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
    try run(try #require(Self.executable, "the polar executable was not built"), arguments)
  }

  private func run(_ executable: URL, _ arguments: [String]) throws -> Outcome {
    let process = Process()
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

  @Test func readsPromptsAsOtherToolsWriteThem() throws {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()).jsonl")
    defer { try? FileManager.default.removeItem(at: file) }
    func generate(_ text: String, from path: String? = nil) throws -> Outcome {
      try Data(text.utf8).write(to: file)
      return try polar("generate", Self.demo, "--prompts", file.path, "--context", "64", "-n", "2")
    }
    let outcome = try generate("{\"prompt\": \"He\", \"id\": 7}\r\n{\"prompt\": \"a\u{2028}b\"}\r\n")
    #expect(outcome.status == 0, "\(outcome.error)")
    #expect(outcome.output.split(separator: "\n").count == 2)
    #expect(outcome.output.hasPrefix("{\"id\":7,"))
    expectRefusal(try generate("{\"prompt\": \"He\"}\n{\"id\": \"b\"}"), "line 2", "prompt")
    expectRefusal(try generate("{\"prompt\": \"He\", \"id\": [1]}"), "line 1", "\"id\"")
    expectRefusal(try generate("{\"prompt\": \"He\", \"max_tokens\": 1.5}"), "line 1", "--help")
    expectRefusal(try generate("{\"prompt\": \"He\", \"max_tokens\": \"3\"}"), "line 1", "max_tokens")
    expectRefusal(try generate("[1]"), "line 1")
    let long = String(repeating: "word ", count: 200)
    expectRefusal(try generate("{\"prompt\": \"\(long)\", \"id\": \"too long\"}"), "'too long'", "64")
    // A pipe.
    let shell = try run(
      URL(fileURLWithPath: "/bin/sh"),
      [
        "-c", "echo '{\"prompt\": \"He\"}' | \"$0\" generate \"$1\" --prompts /dev/stdin --context 64 -n 2",
        try #require(Self.executable).path, Self.demo,
      ])
    #expect(shell.status == 0 && shell.output.contains("\"tokens\":2"), "\(shell.error)")
  }

  @Test(arguments: [
    ("generate \"$1\" -p He -n 2 --context 64 > /dev/full", "standard output"),
    ("inspect \"$1\" > /dev/full", "standard output"),
    ("generate \"$1\" -p He -n 2 --context 64 >&-", nil),
    ("generate \"$1\" -p He -n 2 --context 64 2>&-", nil),
  ])
  func standardStreamsThatAreFullOrClosed(command: String, complaint: String?) throws {
    #if os(Linux)
      let outcome = try run(
        URL(fileURLWithPath: "/bin/sh"),
        ["-c", "\"$0\" " + command, try #require(Self.executable).path, Self.demo])
      if let complaint {
        expectRefusal(outcome, complaint, "space")
      } else {
        #expect(outcome.status == 0, "\(outcome.error)")
      }
    #endif
  }

  /// The model is found through a link to the executable, and what lies beside an executable that was moved comes first.
  @Test func theDemoNeedsItsModel() throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("polar-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let executable: URL = try #require(Self.executable)
    let bundle = "polar_Polar.resources"
    let link = folder.appendingPathComponent("polar")
    try FileManager.default.createSymbolicLink(at: link, withDestinationURL: executable)
    #expect(try run(link, ["demo", "--batch", "1", "--steps", "2"]).status == 0)
    // What lies beside the executable comes first: here a model whose configuration is not one.
    try FileManager.default.removeItem(at: link)
    try FileManager.default.copyItem(at: executable, to: link)
    let demo = folder.appendingPathComponent(bundle + "/demo")
    try FileManager.default.createDirectory(at: demo, withIntermediateDirectories: true)
    try Data("{}".utf8).write(to: demo.appendingPathComponent("config.json"))
    expectRefusal(try run(link, ["demo", "--batch", "1", "--steps", "2"]), demo.path)
  }

  @Test func refusesAProfileOfAnotherModelByItsName() throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("polar-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for name in ["model.safetensors", "tokenizer.json"] {
      try FileManager.default.createSymbolicLink(
        atPath: folder.path + "/" + name, withDestinationPath: Self.demo + "/" + name)
    }
    let config = try String(contentsOfFile: Self.demo + "/config.json", encoding: .utf8)
    try config.replacingOccurrences(of: "\"relu\"", with: "\"gelu\"")
      .write(toFile: folder.path + "/config.json", atomically: true, encoding: .utf8)
    expectRefusal(
      try polar(
        "generate", folder.path, "-p", "x", "--profile", Self.demo + "/opt-books.profile.safetensors"),
      "profile", "opt-books.profile.safetensors")
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
    for output in ["/tmp", "/tmp/", "report.html", "/proc/p.safetensors"] {
      expectRefusal(
        try polar("calibrate", Self.demo, "--text", Self.demo + "/prompts.txt", "--output", output), output)
    }
    for option in ["--batch=9223372036854775807", "--runs=-1", "--steps=0", "--context=0"] {
      expectRefusal(try polar("bench", "engine", Self.demo, option), "--batch")
    }
    expectRefusal(try polar("bench", "linear", "--format", "f16"), "f16")
    expectRefusal(try polar("demo", "--svg", "/no/such/folder/d.svg"), "/no/such/folder")
    expectRefusal(try polar("generate", Self.demo, "-p", "x", "--heads", "paper"), "--profile")
    expectRefusal(try polar("perplexity", Self.demo, "--text", "missing.txt"), "missing.txt")
  }
}
