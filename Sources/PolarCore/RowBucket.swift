/// Few numbers of rows that stand for all: what must be made ready for each number of rows, recorded steps and algorithms of matrix
/// products, is made ready for these.
///
/// Powers of two, from 8 on with three steps between them.
public enum RowBucket {
  /// The smallest one that holds `rows` rows.
  public static func size(holding rows: Int) -> Int {
    var size = 1
    while size < rows { size *= 2 }
    if size > 8 {
      let quarter = size / 8
      size = (rows + quarter - 1) / quarter * quarter
    }
    return size
  }

  /// Those that `1 ... most` rows need, ascending; the last one is `most` itself.
  public static func sizes(upTo most: Int) -> [Int] {
    var sizes: [Int] = []
    while (sizes.last ?? 0) < most { sizes.append(min(size(holding: (sizes.last ?? 0) + 1), most)) }
    return sizes
  }
}
