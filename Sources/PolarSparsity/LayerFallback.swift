public import PolarCore

/// A fallback rule bound to the layers of a model, with the constants of ``FallbackRule/constant`` uploaded.
public final class LayerFallback: Sendable {
  private enum Bound: Sendable {
    case same(HeadFallback)
    case constants(any DeviceMemory, heads: Int, headDim: Int)
  }
  private let bound: Bound

  /// Every layer contributes nothing.
  public static let zero = LayerFallback(.same(.zero))

  /// Every layer attends locally.
  public static func local(sinkPages: Int, recentPages: Int) -> LayerFallback {
    LayerFallback(.same(.local(sinkPages: sinkPages, recentPages: recentPages)))
  }

  private init(_ bound: Bound) { self.bound = bound }

  /// Binds a rule to the layers of a profile's model.
  public init(
    _ rule: FallbackRule, profile: SparsityProfile, on backend: any Backend
  ) throws(PolarError) {
    switch rule {
    case .zero: bound = .same(.zero)
    case .local(let sink, let recent):
      bound = .same(.local(sinkPages: sink, recentPages: recent))
    case .constant:
      let memory = try backend.allocate(byteCount: max(64, profile.constants.count * 4))
      profile.constants.withUnsafeBytes { backend.upload($0, to: memory.base) }
      bound = .constants(memory, heads: profile.model.heads, headDim: profile.model.headDim)
    }
  }

  /// The fallback of one layer.
  public subscript(layer: Int) -> HeadFallback {
    switch bound {
    case .same(let fallback): fallback
    case .constants(let memory, let heads, let headDim):
      .constant(
        Tensor(
          memory.base.advanced(by: layer * heads * headDim * 4), rows: heads, columns: headDim))
    }
  }
}
