/// How the token of one row is drawn; 24 bytes, as kernels read it. Penalties are not part of it.
@frozen public struct TokenDraw: BitwiseCopyable, Sendable, Equatable {
  /// 0 takes the most likely token.
  public var temperature: Float
  /// Keep the most likely tokens up to this probability; 1 keeps all.
  public var topP: Float
  /// Keep tokens at least this many times as likely as the most likely one; 0 keeps all.
  public var minP: Float
  /// Keep this many of the most likely tokens; 0 keeps all.
  public var topK: Int32
  /// The random number that decides, in `0 ..< 1`.
  public var uniform: Double

  /// A way to draw.
  @inlinable
  public init(temperature: Float, topP: Float, minP: Float, topK: Int32, uniform: Double) {
    self.temperature = temperature
    self.topP = topP
    self.minP = minP
    self.topK = topK
    self.uniform = uniform
  }
}

/// Chooses tokens in a backend's memory, so that only their ids leave it.
public protocol TokenDrawing: AnyObject, Sendable {
  /// `tokens[i]` = one token drawn from row i as `draws[i]` says, candidates walked in order of their ids; -1 as in
  /// ``Backend/argmax(_:logits:)``. tokens i32 `[rows]`, logits f32 `[rows, vocabulary]`, draws ``TokenDraw`` `[rows]`, as u8.
  func draw(_ tokens: Tensor, logits: Tensor, draws: Tensor)
}
