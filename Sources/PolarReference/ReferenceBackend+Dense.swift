// The ops are documented where they are declared, in PolarCore.Backend.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation

import Foundation
public import PolarCore

extension ReferenceBackend {
  public func embed(_ out: Tensor, tokens: Tensor, table: PackedMatrix) {
    for i in 0..<out.rows {
      let token = Int(tokens.i32(0)[i])
      out.f32(i).update(from: table.row(token), count: table.inputs)
    }
  }

  public func gatherRows(_ out: Tensor, _ x: Tensor, indices: Tensor) {
    for i in 0..<out.rows {
      let source = Int(indices.i32(0)[i])
      out.f32(i).update(from: x.f32(source), count: out.columns)
    }
  }

  public func rmsNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, epsilon: Float) {
    let d = x.columns
    let w = weight.f32(0)
    for i in 0..<x.rows {
      let row = x.f32(i)
      let meanSquare = dot(row, row, d) / Double(d)
      let scale = 1 / (meanSquare + Double(epsilon)).squareRoot()
      for j in 0..<d { out.f32(i)[j] = Float(Double(row[j]) * scale * Double(w[j])) }
    }
  }

  public func addRMSNorm(
    _ out: Tensor, residual: Tensor, delta: Tensor, weight: Tensor, epsilon: Float
  ) {
    add(residual, delta)
    rmsNorm(out, residual, weight: weight, epsilon: epsilon)
  }

  public func headRMSNorm(_ x: Tensor, weight: Tensor, epsilon: Float, heads: Int) {
    for head in 0..<heads {
      let vectors = x.columns(head * weight.columns..<(head + 1) * weight.columns)
      rmsNorm(vectors, vectors, weight: weight, epsilon: epsilon)
    }
  }

  public func layerNorm(_ out: Tensor, _ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Float) {
    let d = x.columns
    let w = weight.f32(0)
    let b = bias.f32(0)
    for i in 0..<x.rows {
      let row = (0..<d).map { Double(x.f32(i)[$0]) }
      let mean = row.reduce(0, +) / Double(d)
      // The population variance: divided by d, not d - 1.
      let variance = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(d)
      let scale = 1 / (variance + Double(epsilon)).squareRoot()
      for j in 0..<d { out.f32(i)[j] = Float((row[j] - mean) * scale * Double(w[j]) + Double(b[j])) }
    }
  }

  public func linear(_ out: Tensor, _ x: Tensor, weight: PackedMatrix, bias: Tensor?) {
    for i in 0..<x.rows {
      var row = Array(UnsafeBufferPointer(start: x.f32(i), count: weight.inputs))
      if weight.format.blockByteCount != nil { Quantizer.roundActivations(&row) }
      for n in 0..<weight.outputs {
        let sum = dot(row, weight.row(n), weight.inputs)
        out.f32(i)[n] = Float(sum + Double(bias?.f32(0)[n] ?? 0))
      }
    }
  }

  public func siluMul(_ out: Tensor, _ gateUp: Tensor) {
    let n = out.columns
    for i in 0..<out.rows {
      for j in 0..<n {
        let gate = Double(gateUp.f32(i)[j])
        let up = Double(gateUp.f32(i)[n + j])
        out.f32(i)[j] = Float(gate / (1 + exp(-gate)) * up)
      }
    }
  }

  public func reluMul(_ out: Tensor, _ gateUp: Tensor, threshold: Float) {
    let n = out.columns
    for i in 0..<out.rows {
      for j in 0..<n {
        let gate = gateUp.f32(i)[j]
        out.f32(i)[j] = gate > threshold ? gate * gateUp.f32(i)[n + j] : 0
      }
    }
  }

  public func relu(_ x: Tensor) {
    for i in 0..<x.rows {
      for j in 0..<x.columns { x.f32(i)[j] = max(x.f32(i)[j], 0) }
    }
  }

  public func gelu(_ x: Tensor) {
    for i in 0..<x.rows {
      for j in 0..<x.columns {
        let value = Double(x.f32(i)[j])
        x.f32(i)[j] = Float(0.5 * value * (1 + erf(value / 2.0.squareRoot())))
      }
    }
  }

  public func add(_ x: Tensor, _ y: Tensor) {
    for i in 0..<x.rows {
      for j in 0..<x.columns { x.f32(i)[j] += y.f32(i)[j] }
    }
  }
}
