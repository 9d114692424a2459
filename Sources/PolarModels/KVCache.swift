public import PolarCore
public import PolarFormats

/// Owner of the paged K and V memory of all layers.
public final class KVCache: Sendable {
  /// Pages in the pool; page numbers are shared by all layers.
  public let pages: Int
  /// The layers' views.
  public let layers: [KVLayer]
  private let memory: any DeviceMemory

  /// Bytes that one page takes over all layers.
  public static func bytesPerPage(_ config: ModelConfig, dtype: DType) -> Int {
    config.layers * config.kvHeads * KVLayer.blockByteCount(headDim: config.headDim, dtype: dtype)
  }

  /// Allocates a pool of `pages` pages of 16 tokens for every layer.
  public init(config: ModelConfig, pages: Int, on backend: any Backend) throws(PolarError) {
    let dtype = backend.kvDType
    let memory = try backend.allocate(
      byteCount: pages * Self.bytesPerPage(config, dtype: dtype))
    let layerBytes = memory.byteCount / max(1, config.layers)
    self.memory = memory
    self.pages = pages
    self.layers = (0..<config.layers).map { layer in
      KVLayer(
        memory.base.advanced(by: layer * layerBytes), pages: pages, kvHeads: config.kvHeads,
        headDim: config.headDim, dtype: dtype, window: config.window(layer: layer))
    }
  }
}
