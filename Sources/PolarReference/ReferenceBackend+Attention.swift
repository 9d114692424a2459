// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

import Foundation
public import PolarCore

extension ReferenceBackend {
  public func rotaryStoreKV(
    _ kv: KVLayer, _ x: Tensor, heads: Int, positions: Tensor, inverseFrequencies: Tensor, slots: Tensor
  ) {
    let headDim = kv.headDim
    let half = headDim / 2
    for i in 0..<x.rows {
      for j in 0..<half {
        // The product is rounded to f32, as Hugging Face transformers rounds it.
        let angle = Double(Float(positions.i32(0)[i]) * inverseFrequencies.f32(0)[j])
        for h in 0..<heads + kv.kvHeads {
          let vector = x.f32(i) + h * headDim
          let a = Double(vector[j])
          let b = Double(vector[j + half])
          vector[j] = Float(a * cos(angle) - b * sin(angle))
          vector[j + half] = Float(b * cos(angle) + a * sin(angle))
        }
      }
    }
    let values = (heads + kv.kvHeads) * headDim
    storeKV(
      kv, key: x.columns(heads * headDim..<values),
      value: x.columns(values..<values + kv.kvHeads * headDim), slots: slots)
  }

  public func storeKV(_ kv: KVLayer, key: Tensor, value: Tensor, slots: Tensor) {
    for i in 0..<key.rows {
      let (page, token) = Int(slots.i32(0)[i]).quotientAndRemainder(dividingBy: KVPage.tokens)
      for g in 0..<kv.kvHeads {
        kv.store(
          key: key.f32(i) + g * kv.headDim, value: value.f32(i) + g * kv.headDim, head: g, page: page,
          token: token)
      }
    }
  }

  public func prefillAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, span: AttentionSpan
  ) {
    for row in 0..<query.rows {
      let position = Int(batch.positions.i32(0)[row])
      let keys =
        switch span {
        case .full: Array(kv.firstKey(for: position)...position)
        case .local(let sinkPages, let recentPages):
          localPositions(
            kv.firstKey(for: position)...position, sinkPages: sinkPages, recentPages: recentPages)
        }
      for h in 0..<query.columns / kv.headDim {
        attend(out, query: query, kv: kv, batch: batch, scale: scale, row: row, head: h, keys: keys)
      }
    }
  }

  public func decodeAttention(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, heads: ActiveHeads?
  ) {
    for row in 0..<query.rows {
      let position = Int(batch.positions.i32(0)[row])
      for h in 0..<query.columns / kv.headDim {
        let visible = kv.firstKey(for: position)...position
        var keys = Array(visible)
        if let heads, heads.mask.u8(row)[h] == 0 {
          switch heads.fallback {
          case .zero: keys = []
          case .local(let sinkPages, let recentPages):
            keys = localPositions(visible, sinkPages: sinkPages, recentPages: recentPages)
          case .constant(let vectors):
            let target = out.f32(row) + h * kv.headDim
            target.update(from: vectors.f32(h), count: kv.headDim)
            continue
          case .computed(let values):
            let target = out.f32(row) + h * kv.headDim
            target.update(from: values.f32(row) + h * kv.headDim, count: kv.headDim)
            continue
          }
        }
        attend(out, query: query, kv: kv, batch: batch, scale: scale, row: row, head: h, keys: keys)
      }
    }
  }

  /// The positions of `visible` that lie in pages `0 ..< sinkPages` or in the last `recentPages` pages, counted back
  /// from the page of the last position itself.
  private func localPositions(
    _ visible: ClosedRange<Int>, sinkPages: Int, recentPages: Int
  ) -> [Int] {
    let ownPage = visible.upperBound / KVPage.tokens
    return visible.filter { key in
      let page = key / KVPage.tokens
      return page < sinkPages || page > ownPage - recentPages
    }
  }

  /// Softmax attention of one row and head over the sequence's positions `keys`; zero where there are none.
  private func attend(
    _ out: Tensor, query: Tensor, kv: KVLayer, batch: ForwardBatch, scale: Float, row: Int, head: Int,
    keys: [Int]
  ) {
    let headDim = kv.headDim
    let group = head / (query.columns / headDim / kv.kvHeads)
    let pages = batch.blockTables.i32(Int(batch.rowSequences.i32(0)[row]))
    let q = query.f32(row) + head * headDim
    let target = out.f32(row) + head * headDim

    var scores: [Double] = []
    for key in keys {
      let k = kv.key(head: group, page: Int(pages[key / KVPage.tokens]), token: key % KVPage.tokens)
      var sum = 0.0
      for d in 0..<headDim { sum += Double(q[d]) * Double(k[d]) }
      scores.append(sum * Double(scale))
    }
    let largest = scores.max() ?? 0
    let weights = scores.map { exp($0 - largest) }
    let total = weights.reduce(0, +)

    var mean = [Double](repeating: 0, count: headDim)
    for (key, weight) in zip(keys, weights) {
      let v = kv.value(head: group, page: Int(pages[key / KVPage.tokens]), token: key % KVPage.tokens)
      for d in 0..<headDim { mean[d] += weight / total * Double(v[d]) }
    }
    for d in 0..<headDim { target[d] = Float(mean[d]) }
  }
}

extension KVLayer {
  /// The first position that a query at `position` attends to.
  func firstKey(for position: Int) -> Int {
    window.map { max(0, position + 1 - $0) } ?? 0
  }
}
