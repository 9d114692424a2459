/// What there is to know of a model before running it: shape, storage, and which sparsity applies.
public struct ModelSummary: Sendable, Equatable {
  /// The share of one stored type.
  public struct DTypeShare: Sendable, Equatable {
    /// As stored, like `Q4_1`.
    public let dtype: String
    /// Number of tensors of this type.
    public let tensors: Int
    /// Their bytes in the file.
    public let bytes: Int
  }

  /// What a head router chooses.
  public enum HeadUnit: String, Sendable {
    /// Every query head by itself.
    case heads
    /// All query heads of a KV head together.
    case groups
  }

  /// The configuration.
  public let config: ModelConfig
  /// The container, like `GGUF v3`.
  public let format: String
  /// Stored values of all tensors.
  public let parameters: Int
  /// Bytes of all tensors in the file.
  public let bytes: Int
  /// Number of tensors.
  public let tensors: Int
  /// Stored types, largest share first.
  public let dtypes: [DTypeShare]
  /// Whether a chat template comes with the model.
  public let hasChatTemplate: Bool

  /// Summarises an opened model; no weights are read.
  public init(_ model: ModelFile) {
    config = model.config
    format = model.format
    tensors = model.tensors.count
    parameters = model.tensors.reduce(0) { $0 + $1.shape.reduce(1, *) }
    bytes = model.tensors.reduce(0) { $0 + $1.byteCount }
    dtypes = Dictionary(grouping: model.tensors, by: \.dtype)
      .map { dtype, tensors in
        DTypeShare(dtype: dtype, tensors: tensors.count, bytes: tensors.reduce(0) { $0 + $1.byteCount })
      }
      .sorted { ($1.bytes, $0.dtype) < ($0.bytes, $1.dtype) }
    hasChatTemplate = model.chatTemplate != nil
  }

  /// Bytes of bf16 keys and values per token, all layers.
  public var kvBytesPerToken: Int { config.kvBytesPerToken }

  /// Heads are routed by KV group where there are groups, and at least four of them to choose from; else
  /// singly.
  public var headUnit: HeadUnit { config.headsPerGroup > 1 && config.kvHeads >= 4 ? .groups : .heads }

  /// Neurons can be skipped exactly only where the activation makes them zero.
  public var mlpSparsity: Bool { config.activation == .relu }

  /// Lines for a terminal.
  public func text() -> String {
    var attention = "\(config.heads) heads of \(config.headDim), "
    if config.headsPerGroup == 1 {
      attention += "multi-head"
    } else {
      attention += "\(config.kvHeads) KV heads, \(config.headsPerGroup) query heads per group"
    }
    if config.headNorms { attention += ", norms on q and k" }
    if let window = config.windows.compactMap({ $0 }).max() {
      let windowed = config.windows.count { $0 != nil }
      attention += ", window \(window)" + (windowed < config.layers ? " in \(windowed) layers" : "")
    }
    let routing =
      switch headUnit {
      case .heads: "attention: heads routed singly, \(config.heads) per layer"
      case .groups: "attention: heads routed by KV group, \(config.kvHeads) per layer"
      }
    let neurons =
      mlpSparsity
      ? "MLP: neurons (relu), \(config.intermediate) per layer"
      : "MLP: dense (\(config.activation.rawValue) leaves no neuron at zero)"
    var lines = [
      ("architecture", "\(config.architecture.name), \(config.layers) layers"),
      ("format", "\(format), \(tensors) tensors, \(Self.size(bytes))"),
      ("parameters", "\(Self.grouped(parameters)) stored"),
    ]
    lines += dtypes.enumerated().map { index, share in
      (index == 0 ? "dtypes" : "", "\(share.dtype): \(share.tensors) tensors, \(Self.size(share.bytes))")
    }
    lines += [
      ("hidden", "\(config.hidden), MLP \(config.intermediate) \(config.activation.rawValue)"),
      ("attention", attention),
      ("vocabulary", "\(config.vocabulary), embeddings \(config.tiedEmbeddings ? "tied" : "untied")"),
      ("context", "\(config.context) tokens, \(Self.positions(config))"),
      ("KV cache", "\(Self.grouped(kvBytesPerToken)) bytes per token (bf16)"),
      ("sparsity", routing), ("", neurons), ("chat template", hasChatTemplate ? "yes" : "no"),
    ]
    return lines.map { name, value in
      name + String(repeating: " ", count: max(1, 15 - name.count)) + value
    }.joined(separator: "\n")
  }

  private static func positions(_ config: ModelConfig) -> String {
    if config.architecture == .opt { return "learned positions" }
    let base = "rotary base \(grouped(Int(min(config.ropeTheta, 1e15))))"
    switch config.ropeScaling {
    case .none: return base
    case .linear(let factor): return base + ", linear scaling by \(factor)"
    case .llama3(let factor, _, _, let originalContext):
      return base + ", llama3 scaling by \(factor) from \(originalContext)"
    case .factors(let factors): return base + ", scaled by factors up to \(factors.max() ?? 1)"
    }
  }

  /// A number with a space between each three digits.
  private static func grouped(_ value: Int) -> String {
    var text = ""
    for (index, digit) in String(value).reversed().enumerated() {
      if index > 0, index % 3 == 0, digit != "-" { text.append(" ") }
      text.append(digit)
    }
    return String(text.reversed())
  }

  /// Bytes in a unit of 1000 that fits, with one decimal.
  private static func size(_ bytes: Int) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"]
    guard bytes >= 1000 else { return "\(bytes) bytes" }
    var (value, unit) = (Double(bytes), 0)
    while value >= 999.95, unit < units.count - 1 {
      value /= 1000
      unit += 1
    }
    return "\((value * 10).rounded() / 10) \(units[unit])"
  }
}
