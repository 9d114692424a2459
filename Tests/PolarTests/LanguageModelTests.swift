import Foundation
import Polar
import PolarCore
import PolarEngine
import PolarSparsity
import Testing

/// The facade on the embedded model.
@Suite struct LanguageModelTests {
  private static func folder() throws -> URL { try Demo.folder() }
  private static func profile() throws -> URL {
    try folder().appendingPathComponent("opt-books.profile.safetensors")
  }

  private func text(_ model: LanguageModel, _ prompt: String, tokens: Int) async throws -> String {
    var text = ""
    for try await event in try await model.generate(prompt, parameters: .init(maxTokens: tokens)) {
      if case .text(let piece) = event { text += piece }
    }
    return text
  }

  @Test func generatesTheSameTextDenselyAsTheReference() async throws {
    let prompt = "It was a dark and stormy"
    let limits = LanguageModel.Limits(sequences: 1, context: 64)
    let fast = try await LanguageModel.load(from: Self.folder(), limits: limits)
    let slow = try await LanguageModel.load(from: Self.folder(), device: .reference, limits: limits)
    let expected = try await text(slow, prompt, tokens: 6)
    #expect(!expected.isEmpty)
    #expect(try await text(fast, prompt, tokens: 6) == expected)
  }

  @Test func reportsHeadsComputedWithAProfile() async throws {
    let model = try await LanguageModel.load(
      from: Self.folder(),
      sparsity: SparsitySetting(profile: Self.profile(), density: 0.3, heads: .paper),
      limits: .init(sequences: 1, context: 160))
    var info: LanguageModel.Info?
    for try await event in try await model.generate("Once upon a time", parameters: .init(maxTokens: 8)) {
      if case .finished(let facts) = event { info = facts }
    }
    let facts = try #require(info)
    #expect(facts.generation.generationTokenCount == 8)
    // Layer 0 is dense; top-k takes round(0.3 * 8) = 2 of 8 heads in the five others.
    #expect(abs(facts.headDensity - (1 + 5 * 0.25) / 6) < 1e-9)
  }

  @Test func refusesBadRequestsByField() async throws {
    let model = try await LanguageModel.load(
      from: Self.folder(), limits: .init(sequences: 1, context: 64))
    await #expect(throws: PolarError.self) { try await model.generate(tokens: []) }
    await #expect(throws: PolarError.self) { try await model.generate(tokens: [5000]) }
    await #expect(throws: PolarError.self) {
      try await model.generate(tokens: Array(repeating: 5, count: 65))
    }
    await #expect(throws: PolarError.self) {
      try await model.generate("x", parameters: .init(maxTokens: 0))
    }
  }

  @Test(arguments: [0, -0.5, 1.5, Double.nan])
  func refusesDensitiesThatAreNone(_ density: Double) async throws {
    let setting = SparsitySetting(profile: try Self.profile(), density: density)
    await #expect(throws: PolarError.self) {
      try await LanguageModel.load(from: Self.folder(), sparsity: setting)
    }
  }

  @Test func refusesTheProfileOfAnotherModel() async throws {
    let copy = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.copyItem(at: Self.folder(), to: copy)
    defer { try? FileManager.default.removeItem(at: copy) }
    // One changed weight makes it another model.
    let weights = copy.appendingPathComponent("model.safetensors")
    var bytes = try Data(contentsOf: weights)
    bytes[bytes.count - 2] ^= 1
    try bytes.write(to: weights)
    do {
      _ = try await LanguageModel.load(
        from: copy, profile: copy.appendingPathComponent("opt-books.profile.safetensors"))
      Issue.record("the profile of another model was accepted")
    } catch PolarError.profile(let path, let reason) {
      #expect(path.hasSuffix("opt-books.profile.safetensors"))
      #expect(reason.contains("another model"))
    }
  }
}
