import Foundation
import PolarCore
import PolarFormats
import PolarSparsity
import Testing

/// A profile of a small model with a linear and a two-layer router and a measured curve.
private func sample() throws -> SparsityProfile {
  let json = """
    {"architectures":["OPTForCausalLM"],"model_type":"opt","hidden_size":16,"num_hidden_layers":3,
    "num_attention_heads":4,"ffn_dim":32,"vocab_size":50,"max_position_embeddings":64,
    "word_embed_proj_dim":16,"activation_function":"relu","do_layer_norm_before":true}
    """
  var profile = SparsityProfile(
    model: .init(fingerprint: "f00d", config: try config(json)),
    calibration: .init(textHash: "abcd", tokens: 2048, samples: 1000, seed: .max))
  var generator = SplitMix64(seed: 1)
  func fill(_ count: Int) -> [Float] { (0..<count).map { _ in generator.unitFloat() - 0.5 } }
  profile.denseLayers = [0]
  for layer in 1..<3 {
    var router = RouterWeights(inputs: 16, units: 4, hiddenUnits: layer == 1 ? 0 : 8)
    router.weight = fill(64)
    router.bias = fill(4)
    router.hiddenWeight = fill(router.hiddenUnits * 16)
    router.hiddenBias = fill(router.hiddenUnits)
    router.outputWeight = fill(router.hiddenUnits * 4)
    profile.deviationRouters[layer] = router
    profile.normRouters[layer] = RouterWeights(constant: fill(4), inputs: 16)
  }
  profile.meanDeviations = fill(12)
  profile.meanNorms = fill(12)
  profile.constants = fill(48)
  profile.thresholds = [
    .init(density: 0.25, router: 3, oracle: 0.3), .init(density: 0.5, router: 2, oracle: 0.2),
    .init(density: 0.75, router: 0.1, oracle: 0.1),
  ]
  profile.recallDensities = [0.5]
  profile.layerQuality = [.init(layer: 1, r2: 0.5, deviationRecall: [0.7], normRecall: [0.8])]
  profile.curve = [
    QualityRow(
      mode: "adaptive", policy: "routed", wanted: 0.5, got: 0.51, perplexity: 12.5, divergence: 0.01)
  ]
  profile.densePerplexity = 12
  profile.defaultDensity = 0.5
  profile.criticalDensity = 0.75
  return profile
}

private func config(_ json: String) throws -> ModelConfig {
  try ModelConfig(huggingFace: Data(json.utf8), path: "config.json")
}

/// Runs `body` with a directory of its own that is removed afterwards.
private func inDirectory<R>(_ body: (String) throws -> R) throws -> R {
  let url = FileManager.default.temporaryDirectory.appendingPathComponent("polar-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: url) }
  return try body(url.path)
}

/// The reason that reading `bytes` as a profile is refused for, or nil when it is not.
private func refusal(_ bytes: Data) throws -> String? {
  try inDirectory { directory in
    let path = directory + "/p.profile.safetensors"
    try bytes.write(to: URL(fileURLWithPath: path))
    do {
      _ = try SparsityProfile(path: path)
      return nil
    } catch let error as PolarError {
      guard case .profile(_, let reason) = error else { return "another error: \(error)" }
      return reason
    }
  }
}

private func encoded(_ profile: SparsityProfile) throws -> Data {
  try inDirectory { directory in
    let path = directory + "/p.profile.safetensors"
    try profile.write(to: path)
    return try Data(contentsOf: URL(fileURLWithPath: path))
  }
}

@Suite struct ProfileTests {
  @Test func comesBackAsWritten() throws {
    try inDirectory { directory in
      let path = directory + "/p.profile.safetensors"
      let profile = try sample()
      try profile.write(to: path)
      #expect(try SparsityProfile(path: path) == profile)
      var changed = profile
      changed.defaultDensity = 0.75
      try changed.write(to: path)
      #expect(try SparsityProfile(path: path) == changed)
    }
  }

  @Test func truncatedFilesAreRefusedAtEveryLength() throws {
    let bytes = try encoded(sample())
    for length in stride(from: 0, to: bytes.count, by: 37) {
      let reason = try refusal(bytes.prefix(length))
      #expect(reason != nil, "a file of \(length) bytes was accepted")
      #expect(reason?.hasPrefix("another error") == false, "\(reason ?? "")")
    }
    #expect(try refusal(bytes) == nil)
  }

  @Test func numbersThatAreNotFiniteAreRefused() throws {
    for value in [Float.nan, .infinity] {
      var profile = try sample()
      profile.deviationRouters[2]?.hiddenWeight[3] = value
      #expect(throws: PolarError.self) { try encoded(profile) }
      // The same number put into a file that was fine.
      var bytes = try encoded(sample())
      withUnsafeBytes(of: value) { bytes.replaceSubrange(bytes.count - 4..<bytes.count, with: $0) }
      #expect(try refusal(bytes)?.contains("not finite") == true)
    }
  }

  @Test func otherVersionsAndFormatsAreRefused() throws {
    let bytes = try encoded(sample())
    func replaced(_ old: String, _ new: String) throws -> Data {
      var copy = bytes
      let range = try #require(copy.range(of: Data(old.utf8)), "'\(old)' is not in the header")
      copy.replaceSubrange(range, with: Data(new.utf8))
      return copy
    }
    #expect(
      try refusal(replaced("polar-sparsity-profile", "polar-sparsity-profilX")) == "not a sparsity profile")
    #expect(try refusal(replaced("\"version\":\"1\"", "\"version\":\"7\""))?.contains("version 7") == true)
    #expect(try refusal(replaced("\\\"layers\\\":3", "\\\"layers\\\":9")) != nil)
    #expect(try refusal(replaced("\\\"heads\\\":4", "\\\"heads\\\":0"))?.contains("heads") == true)
    #expect(try refusal(replaced("\\\"sinkPages\\\":1", "\\\"sinkPages\\\":-")) != nil)
    #expect(try refusal(Data("not a file of this kind at all".utf8)) != nil)
  }

  @Test func otherModelsAreRefused() throws {
    let profile = try sample()
    let json = """
      {"architectures":["OPTForCausalLM"],"model_type":"opt","hidden_size":16,"num_hidden_layers":3,
      "num_attention_heads":4,"ffn_dim":32,"vocab_size":50,"max_position_embeddings":64,
      "word_embed_proj_dim":16,"activation_function":"relu","do_layer_norm_before":true}
      """
    var other = try config(json)
    try profile.check(config: other, fingerprint: "f00d", path: "p")
    #expect(throws: PolarError.self) { try profile.check(config: other, fingerprint: "beef", path: "p") }
    other.layers = 4
    let error = #expect(throws: PolarError.self) {
      try profile.check(config: other, fingerprint: "f00d", path: "p")
    }
    #expect(error?.description.contains("layers 3, not 4") == true)
    other.layers = 3
    other.heads = 8
    #expect(throws: PolarError.self) { try profile.check(config: other, fingerprint: "f00d", path: "p") }
  }

  @Test func thresholdsAreInterpolated() throws {
    let profile = try sample()
    #expect(try profile.rule(.adaptive, density: 0.5) == .adaptive(threshold: 2))
    #expect(try profile.rule(.adaptive, density: 0.375) == .adaptive(threshold: 2.5))
    #expect(try profile.rule(.adaptive, density: 1) == .adaptive(threshold: -.infinity))
    #expect(try profile.rule(.adaptive, density: 0.01) == .adaptive(threshold: 3))
    #expect(try profile.oracleRule(.adaptive, density: 0.75) == .adaptive(threshold: 0.1))
    #expect(try profile.rule(.paper, density: 0.3) == .topK(density: 0.3))
    for density in [0, -1, 1.5, Double.nan] {
      #expect(throws: PolarError.self) { try profile.rule(.adaptive, density: density) }
    }
  }
}
