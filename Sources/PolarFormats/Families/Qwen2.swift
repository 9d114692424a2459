internal import PolarCore

extension ModelConfig.Architecture {
  /// Qwen 2 and 2.5 (Yang et al. 2024): Llama's blocks with a bias on q, k and v.
  public static let qwen2: Self = Self(
    name: "qwen2", modelTypes: ["qwen2"], blocks: .llama,
    gguf: GGUF(name: "qwen2", interleavesRotaryRows: false)
  ) { fields throws(PolarError) in
    var config = try fields.llamaBlocks(.qwen2, kvHeads: 32, context: 32768)
    config.qkvBias = true
    config.windows = try fields.qwenWindows(layers: config.layers)
    return config
  }
}

extension ConfigFields {
  /// The window of each layer: `sliding_window` where `use_sliding_window` is set, in the layers that `layer_types` names
  /// or, without it, from `max_window_layers` on. Empty when there are none.
  func qwenWindows(layers: Int) throws(PolarError) -> [Int?] {
    var window: Int?
    if try flag("use_sliding_window") == true { window = try int("sliding_window", absent: 4096) }
    if let types = try texts("layer_types") {
      var windows: [Int?] = []
      for type in types {
        switch type {
        case "full_attention": windows.append(nil)
        case "sliding_attention":
          guard let window else {
            throw .configuration(
              field: "layer_types", reason: "sliding_attention without a sliding window in \(path)")
          }
          windows.append(window)
        default: throw .unsupported(path: path, what: "layer type '\(type.prefix(60))'")
        }
      }
      guard windows.count == layers else {
        throw .configuration(
          field: "layer_types", reason: "\(windows.count) entries for \(layers) layers in \(path)")
      }
      return windows.allSatisfy { $0 == nil } ? [] : windows
    }
    let first = try int("max_window_layers") ?? 28
    guard let window, first < layers, layers <= 1024 else { return [] }
    return (0..<layers).map { $0 >= first ? window : nil }
  }
}
