import Foundation
public import PolarCore
import PolarFormats

/// The file: one safetensors file whose metadata carry `format`, `version` and `profile` (JSON of everything small),
/// and whose tensors, all F32, are the routers (`deviation.<layer>.weight`, `.bias`, and with a hidden layer
/// `.hidden.weight`, `.hidden.bias`, `.output.weight`; the same under `norm`), `mean_deviations`, `mean_norms` and
/// `constants`; of neuron routers BF16 `neurons.<layer>.down` and `.up`, with the rest of them in the JSON.
extension SparsityProfile {
  private static let format = "polar-sparsity-profile"
  private static let version = "1"

  /// What the metadata's JSON holds.
  private struct Header: Codable {
    var model: Model
    var calibration: Calibration
    var sinkPages: Int
    var recentPages: Int
    var denseLayers: [Int]
    var headsPerUnit: Int
    var deviationHidden: [Int]
    var normHidden: [Int]
    var localFeatures: [Int]
    var thresholds: [Threshold]
    var recallDensities: [Double]
    var layerQuality: [LayerQuality]
    var curve: [QualityRow]
    var densePerplexity: Double
    var defaultDensity: Double
    var criticalDensity: Double?
    // Since MLP sparsity; files from before lack them.
    var defaultMode: SparsityMode?
    var neurons: NeuronHeader?
  }

  // MARK: Writing

  /// Writes the profile to `path`, replacing a file there only once the new one is complete.
  /// - Throws: ``PolarError/profile(path:reason:)`` when a number is not finite, ``PolarError/file(path:reason:)`` when
  ///   writing fails.
  public func write(to path: String) throws(PolarError) {
    try checkContents(path)
    let header = Header(
      model: model, calibration: calibration, sinkPages: sinkPages, recentPages: recentPages,
      denseLayers: denseLayers, headsPerUnit: units.headsPerUnit,
      deviationHidden: deviationRouters.map { $0?.hiddenUnits ?? 0 },
      normHidden: normRouters.map { $0?.hiddenUnits ?? 0 },
      localFeatures: deviationRouters.map { $0?.localFeatures ?? 0 }, thresholds: thresholds,
      recallDensities: recallDensities, layerQuality: layerQuality, curve: curve,
      densePerplexity: densePerplexity, defaultDensity: defaultDensity, criticalDensity: criticalDensity,
      defaultMode: defaultMode, neurons: neurons.map(NeuronHeader.init))
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    let json: Data
    do { json = try encoder.encode(header) } catch {
      throw .profile(path: path, reason: "cannot be encoded: \(error)")
    }
    var writer = SafetensorsWriter(metadata: [
      "format": Self.format, "version": Self.version, "profile": String(decoding: json, as: UTF8.self),
    ])
    for (set, routers) in [("deviation", deviationRouters), ("norm", normRouters)] {
      for (layer, router) in routers.enumerated() {
        guard let router else { continue }
        let name = "\(set).\(layer)"
        try writer.add(name + ".weight", f32: router.weight, shape: [router.units, router.inputs])
        try writer.add(name + ".bias", f32: router.bias, shape: [router.units])
        guard router.hiddenUnits > 0 else { continue }
        try writer.add(
          name + ".hidden.weight", f32: router.hiddenWeight, shape: [router.hiddenUnits, router.inputs])
        try writer.add(name + ".hidden.bias", f32: router.hiddenBias, shape: [router.hiddenUnits])
        try writer.add(
          name + ".output.weight", f32: router.outputWeight, shape: [router.units, router.hiddenUnits])
      }
    }
    try writer.add("mean_deviations", f32: meanDeviations, shape: [model.layers, units.count])
    try writer.add("mean_norms", f32: meanNorms, shape: [model.layers, units.count])
    try writer.add("constants", f32: constants, shape: [model.layers, model.heads, model.headDim])
    try neurons?.addRouters(to: &writer)
    try writer.write(to: path)
  }

  // MARK: Reading

  /// Reads a profile and checks everything about it that does not need the model; ``check(config:fingerprint:path:)``
  /// does the rest.
  /// - Throws: ``PolarError/file(path:reason:)`` when there is no such file, else ``PolarError/profile(path:reason:)``
  ///   that says what is wrong.
  public init(path: String) throws(PolarError) {
    do {
      try self.init(file: Safetensors(path: path), path: path)
    } catch {
      switch error {
      case .malformed(_, let reason), .unsupported(_, let reason):
        throw .profile(path: path, reason: reason)
      case .weight(let name, let reason): throw .profile(path: path, reason: "tensor '\(name)': \(reason)")
      default: throw error
      }
    }
  }

  private init(file: Safetensors, path: String) throws(PolarError) {
    guard file.metadata["format"] == Self.format else {
      throw .profile(path: path, reason: "not a sparsity profile")
    }
    guard file.metadata["version"] == Self.version else {
      throw .profile(
        path: path,
        reason: "version \(file.metadata["version"] ?? "missing"), where \(Self.version) is understood")
    }
    let header: Header
    do {
      header = try JSONDecoder().decode(Header.self, from: Data((file.metadata["profile"] ?? "").utf8))
    } catch {
      throw .profile(path: path, reason: "its description cannot be read")
    }
    try Self.checkDimensions(header.model, path)
    // The constants alone must fit the file, which bounds what the next line allocates.
    guard header.model.layers * header.model.heads * header.model.headDim <= file.file.byteCount / 4 else {
      throw .profile(path: path, reason: "constants that do not fit its \(file.file.byteCount) bytes")
    }
    self.init(model: header.model, calibration: header.calibration)
    sinkPages = header.sinkPages
    recentPages = header.recentPages
    denseLayers = header.denseLayers
    thresholds = header.thresholds
    recallDensities = header.recallDensities
    layerQuality = header.layerQuality
    curve = header.curve
    densePerplexity = header.densePerplexity
    defaultDensity = header.defaultDensity
    criticalDensity = header.criticalDensity
    guard header.headsPerUnit > 0, model.heads % header.headsPerUnit == 0 else {
      throw .profile(path: path, reason: "selection units of \(header.headsPerUnit) of \(model.heads) heads")
    }
    units = SelectionUnits(heads: model.heads, headsPerUnit: header.headsPerUnit)
    try checkFallback(path)
    guard header.deviationHidden.count == model.layers, header.normHidden.count == model.layers,
      header.localFeatures.count == model.layers
    else {
      throw .profile(path: path, reason: "routers of another number of layers than \(model.layers)")
    }
    let reader = Reader(file: file, path: path)
    for layer in 0..<model.layers where !denseLayers.contains(layer) {
      deviationRouters[layer] = try reader.router(
        "deviation.\(layer)", units: units.count, inputs: model.hidden,
        hidden: header.deviationHidden[layer], localFeatures: header.localFeatures[layer])
      normRouters[layer] = try reader.router(
        "norm.\(layer)", units: units.count, inputs: model.hidden, hidden: header.normHidden[layer],
        localFeatures: 0)
    }
    meanDeviations = try reader.floats("mean_deviations", [model.layers, units.count])
    meanNorms = try reader.floats("mean_norms", [model.layers, units.count])
    constants = try reader.floats("constants", [model.layers, model.heads, model.headDim])
    if let header = header.neurons {
      neurons = try NeuronSparsity(header, model: model, path: path) { (name, shape) throws(PolarError) in
        try reader.floats(name, shape, dtype: "BF16")
      }
    }
    defaultMode = header.defaultMode ?? .heads
    try checkContents(path)
  }

  /// Reads tensors of known shapes.
  private struct Reader {
    let file: Safetensors
    let path: String

    func floats(_ name: String, _ shape: [Int], dtype: String = "F32") throws(PolarError) -> [Float] {
      guard let entry = file.tensors[name] else {
        throw .profile(path: path, reason: "tensor '\(name)' is missing")
      }
      guard entry.shape == shape, entry.dtype == dtype else {
        throw .profile(
          path: path, reason: "tensor '\(name)' is \(entry.dtype) \(entry.shape), not \(dtype) \(shape)")
      }
      return try file.floats(name)
    }

    func router(
      _ name: String, units: Int, inputs: Int, hidden: Int, localFeatures: Int
    ) throws(PolarError) -> RouterWeights {
      guard (0...65_536).contains(hidden), hidden % 2 == 0 else {
        throw .profile(path: path, reason: "router '\(name)' with \(hidden) hidden units")
      }
      guard (0...65_536).contains(localFeatures), localFeatures % 2 == 0 else {
        throw .profile(path: path, reason: "router '\(name)' with \(localFeatures) local features")
      }
      let inputs = inputs + localFeatures
      var router = RouterWeights(
        inputs: inputs, units: units, hiddenUnits: hidden, localFeatures: localFeatures)
      router.weight = try floats(name + ".weight", [units, inputs])
      router.bias = try floats(name + ".bias", [units])
      guard hidden > 0 else { return router }
      router.hiddenWeight = try floats(name + ".hidden.weight", [hidden, inputs])
      router.hiddenBias = try floats(name + ".hidden.bias", [hidden])
      router.outputWeight = try floats(name + ".output.weight", [units, hidden])
      return router
    }
  }

  // MARK: Checks

  private static func checkDimensions(_ model: Model, _ path: String) throws(PolarError) {
    for (what, value, limit) in [
      ("layers", model.layers, 4096), ("heads", model.heads, 4096), ("KV heads", model.kvHeads, 4096),
      ("head dimension", model.headDim, 4096), ("hidden size", model.hidden, 1 << 20),
    ] where value < 1 || value > limit {
      throw .profile(path: path, reason: "\(what) is \(value)")
    }
  }

  private func checkFallback(_ path: String) throws(PolarError) {
    guard (0...1 << 20).contains(sinkPages), (1...1 << 20).contains(recentPages) else {
      throw .profile(
        path: path, reason: "a local fallback of \(sinkPages) and \(recentPages) pages")
    }
    guard denseLayers.allSatisfy({ (0..<model.layers).contains($0) }) else {
      throw .profile(path: path, reason: "a dense layer that the model does not have")
    }
  }

  private func checkContents(_ path: String) throws(PolarError) {
    try Self.checkDimensions(model, path)
    try checkFallback(path)
    try neurons?.checkContents(model: model, path)
    guard modes.contains(defaultMode) || defaultMode == .heads else {
      throw .profile(path: path, reason: "no routers for its own mode '\(defaultMode.rawValue)'")
    }
    var arrays = [
      ("mean deviations", meanDeviations), ("mean norms", meanNorms), ("constants", constants),
      ("thresholds", thresholds.flatMap { [Float($0.density), $0.router, $0.oracle] }),
    ]
    for (set, routers) in [("deviation", deviationRouters), ("norm", normRouters)] {
      for (layer, router) in routers.enumerated() {
        guard let router else { continue }
        arrays.append(
          (
            "\(set) router of layer \(layer)",
            router.weight + router.bias + router.hiddenWeight + router.hiddenBias + router.outputWeight
          ))
      }
    }
    for (what, values) in arrays where !values.allSatisfy(\.isFinite) {
      throw .profile(path: path, reason: "\(what): a number that is not finite")
    }
    let qualities: [Double] = layerQuality.flatMap { [$0.r2] + $0.deviationRecall + $0.normRecall }
    let numbers =
      curve.flatMap { [$0.wanted, $0.got, $0.perplexity, $0.divergence] } + qualities + recallDensities
      + [densePerplexity]
    guard numbers.allSatisfy(\.isFinite) else {
      throw .profile(path: path, reason: "quality curve: a number that is not finite")
    }
    for density in thresholds.map(\.density) + [defaultDensity] + [criticalDensity].compactMap({ $0 })
    where !(density > 0 && density <= 1) {
      throw .profile(path: path, reason: "density \(density) is not greater than 0 and at most 1")
    }
    for (a, b) in zip(thresholds, thresholds.dropFirst()) where a.density >= b.density {
      throw .profile(path: path, reason: "thresholds are not by ascending density")
    }
    for row in layerQuality
    where row.deviationRecall.count != recallDensities.count || row.normRecall.count != recallDensities.count
      || !(0..<model.layers).contains(row.layer)
    {
      throw .profile(path: path, reason: "recall of layer \(row.layer) does not fit its densities")
    }
  }
}
