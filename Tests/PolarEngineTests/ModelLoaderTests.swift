import Foundation
import PolarCPU
import PolarCore
import PolarFormats
import PolarModels
import PolarReference
import PolarTokenizer
import Testing

@testable import PolarEngine

@Suite struct ModelLoaderTests {
  /// A folder with the fixture's weights and, if any, a tokenizer of `tokens`.
  private func folder(tokens: [String]?) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("polar-\(UUID())")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for name in ["config.json", "model.safetensors"] {
      try FileManager.default.copyItem(
        at: RealModelTests.fixtures.appendingPathComponent("llama-mha/\(name)"),
        to: folder.appendingPathComponent(name))
    }
    if let tokens {
      let vocabulary = Dictionary(uniqueKeysWithValues: tokens.enumerated().map { ($1, $0) })
      let json: [String: Any] = [
        "model": ["type": "BPE", "vocab": vocabulary, "merges": [String]()] as [String: Any],
        "pre_tokenizer": [
          "type": "ByteLevel", "add_prefix_space": false, "use_regex": true, "trim_offsets": true,
        ] as [String: Any],
        "decoder": ["type": "ByteLevel"], "added_tokens": [[String: Any]](),
      ]
      try JSONSerialization.data(withJSONObject: json)
        .write(to: folder.appendingPathComponent("tokenizer.json"))
    }
    return folder
  }

  /// `count` one-character tokens: printable ASCII first, so that text can be encoded.
  private func alphabet(_ count: Int) -> [String] {
    (0..<count).map { index in
      let scalar = UInt8(index < 94 ? 33 + index : 0xC0 + index - 94)
      return String(UnicodeScalar(scalar))
    }
  }

  @Test func aFolderWithATokenizerGenerates() async throws {
    let folder = try folder(tokens: alphabet(96))
    defer { try? FileManager.default.removeItem(at: folder) }
    let backend = try CPUBackend()
    let loaded = try ModelLoader.load(from: folder, on: backend)
    #expect(loaded.file.format == "safetensors" && loaded.file.byteCount > 0 && loaded.chatTemplate == nil)
    let runner = try ModelRunner(
      model: loaded.model, backend: backend, cachePages: 16, maximumRows: 32, maximumSequences: 4,
      maximumContext: 64)
    let engine = try Engine(loaded, runner: runner)
    let outcome = try await engine.run(
      loaded.tokenizer.encode("Hello"), SamplingParameters(maxTokens: 8, ignoreEOS: true))
    #expect(outcome.tokens.count == 8)
    #expect(outcome.text == loaded.tokenizer.decode(outcome.tokens))
  }

  @Test func aFoldersChatTemplateRenders() throws {
    let folder = try folder(tokens: alphabet(96))
    defer { try? FileManager.default.removeItem(at: folder) }
    func format() throws(PolarError) -> ChatFormat {
      try ModelLoader.load(from: folder, on: ReferenceBackend()).chatFormat()
    }
    let messages = [ChatMessage(role: .user, content: "Hi")]
    #expect(try format().render(messages: messages).text == "User: Hi\nAssistant:")
    func write(_ template: String) throws {
      // One token with its attributes, one as a string: both are found in real files.
      let settings: [String: Any] = [
        "chat_template": template, "bos_token": ["content": "!"], "eos_token": "~",
      ]
      try JSONSerialization.data(withJSONObject: settings)
        .write(to: folder.appendingPathComponent("tokenizer_config.json"))
    }
    try write(
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}")
    let chat = try format()
    #expect(try chat.render(messages: messages).text == "![user]Hi~")
    #expect(chat.stopStrings.isEmpty)
    try write("{% for m in messages %}")
    do {
      _ = try format()
      Issue.record("a template without its end was accepted")
    } catch {
      #expect(error.description.contains(folder.lastPathComponent) && error.description.contains("line 1"))
    }
  }

  @Test func aVocabularySmallerThanAnIdIsRefused() throws {
    let folder = try folder(tokens: alphabet(97))
    defer { try? FileManager.default.removeItem(at: folder) }
    do {
      _ = try ModelLoader.load(from: folder, on: ReferenceBackend())
      Issue.record("id 96 was accepted in a vocabulary of 96")
    } catch {
      #expect(error.description.contains("smaller than an id") && error.description.contains("96"))
    }
  }

  @Test func whatIsMissingIsNamed() throws {
    let folder = try folder(tokens: nil)
    defer { try? FileManager.default.removeItem(at: folder) }
    do {
      _ = try ModelLoader.load(from: folder, on: ReferenceBackend())
      Issue.record("no tokenizer, but it loads")
    } catch {
      #expect(error.description.contains("tokenizer.json"))
    }
    #expect(throws: PolarError.self) {
      try ModelLoader.load(from: folder.appendingPathComponent("none.gguf"), on: ReferenceBackend())
    }
  }

  @Test func aTrainedModelContinuesABook() async throws {
    let books = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../../shared/models/opt-books").standardizedFileURL
    guard FileManager.default.fileExists(atPath: books.path) else {
      print("aTrainedModelContinuesABook: nothing to do, \(books.path) is not there")
      return
    }
    let backend = try CPUBackend()
    let loaded = try ModelLoader.load(from: books, on: backend)
    let runner = try ModelRunner(
      model: loaded.model, backend: backend, cachePages: 16, maximumRows: 32, maximumSequences: 2,
      maximumContext: 64)
    let engine = try Engine(loaded, runner: runner)
    let outcome = try await engine.run(
      loaded.tokenizer.encode("He went to the"), SamplingParameters(maxTokens: 12))
    print("opt-books: He went to the|\(outcome.text)")
    #expect(outcome.text.split(separator: " ").count >= 5, "\(outcome.text)")
  }
}

@Suite struct CapacityTests {
  @Test func weightsThatMemoryCannotHoldAreRefused() throws {
    let file = try ModelFile.open(RealModelTests.fixtures.appendingPathComponent("llama-mha"))
    let values = file.tensors.reduce(0) { $0 + $1.shape.reduce(1, *) }
    // The fixture is stored in f32 or 16 bits and is held in 16.
    for (precision, bytes) in [(WeightPrecision.stored, 2 * values), (.bf16, 2 * values), (.int8, values)] {
      #expect(throws: Never.self) {
        try ModelLoader.checkMemory(file, precision: precision, available: bytes)
      }
      #expect(throws: PolarError.self) {
        try ModelLoader.checkMemory(file, precision: precision, available: bytes - 1)
      }
    }
  }

  @Test func pagesFollowTheMemory() throws {
    let config = ModelConfig.tiny(vocabulary: 10, context: 64)
    let page = KVCache.bytesPerPage(config, dtype: .bf16)
    // 1 layer, 1 KV head, K and V, 16 tokens, 2 elements of 2 bytes.
    #expect(page == 128)
    func pages(_ available: Int, fraction: Double = 0.5, reserved: Int = 0, most: Int = .max) throws -> Int {
      try KVBudget.pages(
        available: available, config: config, dtype: .bf16, fraction: fraction, reserved: reserved, most: most
      )
    }
    #expect(try pages(128 * 10) == 5)
    #expect(try pages(128 * 10, reserved: 128 * 4) == 3)
    #expect(try pages(128 * 10, fraction: 1, most: 7) == 7)
    #expect(throws: PolarError.self) { try pages(128) }
    #expect(throws: PolarError.self) { try pages(128, reserved: 1000) }
    #expect(throws: PolarError.self) { try pages(12800, fraction: 0) }
    #expect(throws: PolarError.self) { try pages(12800, fraction: .nan) }
  }

  @Test func freeMemoryIsKnownOnLinux() throws {
    #if os(Linux)
      let bytes = try #require(KVBudget.availableMemory())
      #expect(bytes > 0 && bytes < 1 << 50)
    #endif
  }

  /// Files of version 2 and of version 1; the least of a group and those above it counts, the page cache is free.
  @Test(
    arguments: [
      ("0::/a/b\n", ["a/b/memory.max": "max", "a/b/memory.current": "5"], nil),
      (
        "0::/a/b\n",
        [
          "a/b/memory.max": "1000", "a/b/memory.current": "300",
          "a/b/memory.stat": "anon 9\ninactive_file 200\n",
          "a/memory.max": "2000", "a/memory.current": "1500",
        ], 500
      ),
      ("0::/../elsewhere\n", ["memory.max": "100\n", "memory.current": "120\n"], 0),
      (
        "5:cpu:/x\n4:memory:/job\n0::/\n",
        [
          "memory/job/memory.limit_in_bytes": "700", "memory/job/memory.usage_in_bytes": "100",
          "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
          "memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1",
        ], 650
      ),
      ("no group\n\n:\n::\n", [:], nil),
    ] as [(String, [String: String], Int?)])
  func controlGroupsLimitMemory(membership: String, files: [String: String], left: Int?) throws {
    let root = FileManager.default.temporaryDirectory.appendingPathComponent("polar-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: root) }
    for (path, content) in files.merging(["../groups": membership], uniquingKeysWith: { $1 }) {
      let file = root.appendingPathComponent("fs/" + path).standardizedFileURL
      try FileManager.default.createDirectory(
        at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try content.write(to: file, atomically: true, encoding: .utf8)
    }
    let found = KVBudget.controlGroupMemory(
      membership: root.path + "/groups", mount: root.appendingPathComponent("fs").path)
    #expect(found == left)
  }

  @Test func aRunnerRefusesSizesThatMakeNoSense() throws {
    let model = MockModel(pages: 4)
    func make(pages: Int = 4, rows: Int = 8, sequences: Int = 2, context: Int = 64) throws {
      _ = try ModelRunner(
        model: model, backend: ReferenceBackend(), cachePages: pages, maximumRows: rows,
        maximumSequences: sequences, maximumContext: context)
    }
    #expect(throws: Never.self) { try make() }
    #expect(throws: PolarError.self) { try make(pages: 0) }
    #expect(throws: PolarError.self) { try make(rows: 1) }
    #expect(throws: PolarError.self) { try make(sequences: 0) }
    #expect(throws: PolarError.self) { try make(context: 257) }
  }
}
