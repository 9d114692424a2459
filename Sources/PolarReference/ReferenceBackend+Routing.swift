// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

public import PolarCore

extension ReferenceBackend {
  public func argmax(_ tokens: Tensor, logits: Tensor) {
    for i in 0..<logits.rows {
      let row = UnsafeBufferPointer(start: logits.f32(i), count: logits.columns)
      let best = row.indices.max { row[$0] < row[$1] || (row[$0] == row[$1] && $0 > $1) }
      let isChosen = best.map { row[$0].isFinite && !row.contains(where: \.isNaN) } ?? false
      tokens.i32(0)[i] = isChosen ? Int32(best ?? -1) : -1
    }
  }

  public func selectTopK(_ mask: Tensor, scores: Tensor, k: Int, headsPerUnit: Int) {
    for i in 0..<scores.rows {
      let score = scores.f32(i)
      let order = (0..<scores.columns).sorted { a, b in
        score[a] > score[b] || (score[a] == score[b] && a < b)
      }
      let chosen = Set(order.prefix(k))
      for head in 0..<scores.columns * headsPerUnit {
        mask.u8(i)[head] = chosen.contains(head / headsPerUnit) ? 1 : 0
      }
    }
  }

  public func selectAbove(_ mask: Tensor, scores: Tensor, threshold: Float, headsPerUnit: Int) {
    for i in 0..<scores.rows {
      for head in 0..<scores.columns * headsPerUnit {
        mask.u8(i)[head] = scores.f32(i)[head / headsPerUnit] > threshold ? 1 : 0
      }
    }
  }

  public func headNorms(_ out: Tensor, attention: Tensor) {
    let headDim = attention.columns / out.columns
    for i in 0..<out.rows {
      for h in 0..<out.columns {
        let vector = attention.f32(i) + h * headDim
        out.f32(i)[h] = Float(dot(vector, vector, headDim).squareRoot())
      }
    }
  }

  public func headDeviations(
    _ out: Tensor, attention: Tensor, fallback: Tensor?, gram: Tensor, residual: Tensor
  ) {
    let headDim = attention.columns / out.columns
    for i in 0..<out.rows {
      let residualNorm = dot(residual.f32(i), residual.f32(i), residual.columns).squareRoot()
      for h in 0..<out.columns {
        let d = (0..<headDim).map { j in
          Double(attention.f32(i)[h * headDim + j]) - Double(fallback?.f32(i)[h * headDim + j] ?? 0)
        }
        var quadratic = 0.0
        for a in 0..<headDim {
          for b in 0..<headDim { quadratic += d[a] * Double(gram.f32(h * headDim + a)[b]) * d[b] }
        }
        // Rounding may push a Gram form of nearly nothing below zero.
        out.f32(i)[h] = Float(max(quadratic, 0).squareRoot() / residualNorm)
      }
    }
  }
}
