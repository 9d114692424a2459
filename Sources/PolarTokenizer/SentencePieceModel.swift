import PolarCore

/// A SentencePiece model as its file says it (`sentencepiece_model.proto`, message ModelProto), or GGUF metadata of
/// the `llama` kind.
struct SentencePieceModel {
  /// What a piece is for.
  enum Kind: Int {
    case normal = 1
    case unknown = 2
    case control = 3
    case userDefined = 4
    case unused = 5
    case byte = 6
  }

  struct Piece {
    var spelling: [UInt8] = []
    var score: Float = 0
    var kind = Kind.normal
  }

  enum Algorithm: Int {
    case unigram = 1
    case bytePairs = 2
  }

  var path: String
  var pieces: [Piece] = []
  var algorithm = Algorithm.unigram
  var hasByteFallback = false
  var normalizer = SentencePieceNormalizer(removesExtraSpaces: true)
  /// What the unknown token is shown as.
  var unknownText: [UInt8] = Array(" \u{2047} ".utf8)
  var beginPiece: [UInt8] = Array("<s>".utf8)
  var endPiece: [UInt8] = Array("</s>".utf8)

  init(path: String) {
    self.path = path
  }

  /// Reads a `tokenizer.model`.
  init(_ bytes: [UInt8], path: String) throws(PolarError) {
    self.path = path
    var reader = ProtobufReader(bytes, path: path)
    while let (field, value) = try reader.next() {
      guard case .bytes(let range) = value else { continue }
      switch field {
      case 1:
        guard pieces.count < Vocabulary.idLimit else {
          throw .unsupported(path: path, what: "a vocabulary of more than 2^24 tokens")
        }
        pieces.append(try piece(bytes, range))
      case 2: try readTrainer(bytes, range)
      case 3: try readNormalizer(bytes, range)
      case 5:
        var denormalizer = SentencePieceModel(path: path)
        try denormalizer.readNormalizer(bytes, range)
        if denormalizer.normalizer.map != nil { throw .unsupported(path: path, what: "a denormalizer") }
      default: break
      }
    }
  }

  private func piece(_ bytes: [UInt8], _ range: Range<Int>) throws(PolarError) -> Piece {
    var piece = Piece()
    var reader = ProtobufReader(bytes, range, path: path)
    while let (field, value) = try reader.next() {
      switch (field, value) {
      case (1, .bytes(let range)): piece.spelling = Array(bytes[range])
      case (2, .fixed32(let bits)): piece.score = Float(bitPattern: bits)
      case (3, .varint(let number)):
        guard let kind = Int(exactly: number).flatMap(Kind.init) else {
          throw .malformed(path: path, reason: "piece \(pieces.count) has the type \(number)")
        }
        piece.kind = kind
      case (1...3, _):
        throw .malformed(path: path, reason: "piece \(pieces.count): field \(field) has a wrong type")
      default: break
      }
    }
    return piece
  }

  private mutating func readTrainer(_ bytes: [UInt8], _ range: Range<Int>) throws(PolarError) {
    var reader = ProtobufReader(bytes, range, path: path)
    while let (field, value) = try reader.next() {
      switch (field, value) {
      case (3, .varint(let number)):
        guard let known = Int(exactly: number).flatMap(Algorithm.init) else {
          throw .unsupported(
            path: path, what: "the SentencePiece model type \(number) (known: 1 unigram, 2 BPE)")
        }
        algorithm = known
      case (24, .varint(1)): throw .unsupported(path: path, what: "treat_whitespace_as_suffix")
      case (35, .varint(let number)): hasByteFallback = number != 0
      case (44, .bytes(let range)): unknownText = Array(bytes[range])
      case (46, .bytes(let range)): beginPiece = Array(bytes[range])
      case (47, .bytes(let range)): endPiece = Array(bytes[range])
      default: break
      }
    }
  }

  private mutating func readNormalizer(_ bytes: [UInt8], _ range: Range<Int>) throws(PolarError) {
    var reader = ProtobufReader(bytes, range, path: path)
    while let (field, value) = try reader.next() {
      switch (field, value) {
      case (2, .bytes(let range)):
        if !range.isEmpty { normalizer.map = try CharacterMap(bytes[range], path: path) }
      case (3, .varint(let number)): normalizer.addsPrefix = number != 0
      case (4, .varint(let number)): normalizer.removesExtraSpaces = number != 0
      case (5, .varint(let number)): normalizer.marksSpaces = number != 0
      default: break
      }
    }
  }
}
