import PolarCore

/// Normalizers and pre-tokenizers.
extension TokenizerJSON {
  /// The steps of a normalizer.
  static func steps(_ view: JSONView) throws(PolarError) -> [Normalizer.Step] {
    switch try view.required("type").string() {
    case "NFC": return [.composed]
    case "Prepend": return [.prepended(Array(try view.required("prepend").utf8()))]
    case "Strip":
      return [
        .trimmed(
          left: try view.bool("strip_left", default: true), right: try view.bool("strip_right", default: true)
        )
      ]
    case "Replace":
      let content = Array(try view.required("content").utf8())
      let pattern = try view.required("pattern")
      if let text = try pattern.member("String") {
        let literal = Array(try text.utf8())
        guard !literal.isEmpty else { throw text.unsupported("an empty pattern") }
        return [.replaced(literal, with: content)]
      }
      let expression = try pattern.required("Regex")
      guard try expression.string() == " {2,}" else {
        throw expression.unsupported("the pattern \(try expression.string())")
      }
      return [.spaceRuns(with: content)]
    case "Precompiled":
      let text = try view.required("precompiled_charsmap")
      guard let blob = TiktokenRanks.base64(try text.utf8()) else { throw text.malformed("not base 64") }
      return [.table(try CharacterMap(blob[...], path: view.path))]
    case "Sequence":
      var all: [Normalizer.Step] = []
      for part in try view.required("normalizers").elements() { all += try steps(part) }
      return all
    case let type: throw view.unsupported("a normalizer of type \(type)")
    }
  }

  /// The stages of the pre-tokenizer, and whether the last one spells bytes in the byte alphabet.
  static func preTokenizer(
    _ root: JSONView
  ) throws(PolarError) -> (list: [PreTokenizer.Stage], areSpelled: Bool) {
    guard let view = try root.member("pre_tokenizer") else { return ([], false) }
    let views =
      try view.required("type").string() == "Sequence"
      ? try view.required("pretokenizers").elements() : [view]
    var stages: [PreTokenizer.Stage] = []
    var areSpelled = false
    for view in views {
      let type = try view.required("type").string()
      if areSpelled {
        throw view.unsupported("a pre-tokenizer of type \(type) at this place (ByteLevel must be the last)")
      }
      areSpelled = type == "ByteLevel"
      stages.append(try stage(view, type))
    }
    guard !stages.isEmpty else { throw view.unsupported("an empty sequence of pre-tokenizers") }
    return (stages, areSpelled)
  }

  private static func stage(_ view: JSONView, _ type: String) throws(PolarError) -> PreTokenizer.Stage {
    switch type {
    case "ByteLevel":
      return .init(
        scanner: try view.bool("use_regex", default: true) ? .gpt2 : .whole,
        addsPrefixSpace: try view.bool("add_prefix_space", default: true))
    case "Metaspace": return try metaspace(view)
    case "WhitespaceSplit": return .init(scanner: .whitespace, removesMatches: true)
    case "Digits":
      return .init(scanner: try view.bool("individual_digits", default: false) ? .digits : .digitRuns)
    case "Split":
      let behavior = try view.required("behavior").string()
      guard behavior == "Isolated" || behavior == "Removed" else {
        throw view.unsupported("the behavior \(behavior)")
      }
      return .init(
        scanner: try scanner(try view.required("pattern")), removesMatches: behavior == "Removed",
        isInverted: try view.bool("invert", default: false))
    default: throw view.unsupported("a pre-tokenizer of type \(type)")
    }
  }

  private static func metaspace(_ view: JSONView) throws(PolarError) -> PreTokenizer.Stage {
    let mark = Array(try view.required("replacement").utf8())
    guard !mark.isEmpty else { throw view.malformed("the replacement is empty") }
    return .init(
      scanner: try view.bool("split", default: true) ? .before(mark) : .whole,
      marks: .init(mark: mark, prepend: try prepend(view)))
  }

  /// Where Metaspace puts a mark before a text; older files say it with `add_prefix_space`.
  private static func prepend(_ view: JSONView) throws(PolarError) -> PreTokenizer.Prepend {
    guard let scheme = try view.member("prepend_scheme") else {
      return try view.bool("add_prefix_space", default: true) ? .always : .never
    }
    switch try scheme.string() {
    case "always": return .always
    case "first": return .first
    case "never": return .never
    case let name: throw scheme.malformed("'\(name)' is not always, first or never")
    }
  }

  private static func scanner(_ view: JSONView) throws(PolarError) -> PreTokenizer.Scanner {
    if let text = try view.member("String") {
      let literal = Array(try text.utf8())
      guard !literal.isEmpty else { throw text.unsupported("an empty pattern") }
      return .literal(literal)
    }
    let pattern = try view.required("Regex")
    let text = try pattern.string()
    guard let scanner = PreTokenizer.patterns[text] else {
      throw pattern.unsupported("the pattern \(text)")
    }
    return scanner
  }
}
