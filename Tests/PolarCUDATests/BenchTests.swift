import EmulatedCUDA
import PolarBench
import PolarCUDA
import PolarCalibration
import PolarCore
import PolarModels
import PolarSparsity
import Testing

/// What `Benchmarks/gpu/run.sh` measures on a GPU, run whole on the emulator. Its times mean nothing.
@Suite struct CUDABenchTests {
  @Test func opsAreMeasured() throws {
    let device = EmulatedDevice()
    let backend = try CUDABackend(device: device)
    let bench = OpBench(backend, repeats: 1, coldBytes: 1 << 14)
    let attention = try bench.attention(
      .init(heads: 8, kvHeads: 4, headDim: 16, context: 40, batch: 2), densities: [0.5])
    #expect(attention.map(\.variant) == ["dense", "zero", "local(1,4)"])
    #expect(attention.map(\.density) == [1, 0.5, 0.5])
    let linear = try bench.linear(outputs: 96, inputs: 64, batches: [1, 9])
    #expect(linear.map(\.batch) == [1, 9])
    let selective = try bench.selective(hidden: 64, neurons: 128, densities: [0.25, 1], batches: [3])
    #expect(selective.map(\.density) == [1, 0.25, 1, 1, 0.25, 1])
    #expect(Set(selective.map(\.variant)) == ["dense up", "selective up", "dense down", "selective down"])
    let routers = try bench.routers(hidden: 64, units: 6, neurons: 200, rank: 32, batches: [1, 9])
    #expect(routers.map(\.variant).prefix(3) == ["heads", "neurons, top-k", "neurons, union"])
    #expect(routers.count == 6)
    for row in attention + linear + selective + routers { #expect(row.seconds > 0 && row.bandwidth > 0) }
    #expect(backend.failure == nil)
    #expect(device.recordings.made > 0)
    #expect(try backend.measuredCopyBandwidth(byteCount: 1 << 20) > 0)
  }

  @Test func trainingIsMeasured() throws {
    let backend = try CUDABackend(device: EmulatedDevice())
    let rows = try TrainingBench(backend, repeats: 1, steps: 1)
      .run(hidden: 40, neurons: 70, rank: 8, units: 4, hiddenUnits: 8, batch: 8)
    #expect(rows.map(\.part) == ["neuron step", "head step", "ridge"])
    for row in rows { #expect(row.seconds > 0 && row.bandwidth > 0 && row.bytes > 0) }
    #expect(backend.failure == nil)
  }

  @Test(arguments: ShapeBench.Shape.tiny.map(\.name))
  func stepsAreMeasured(name: String) throws {
    let shape = try #require(ShapeBench.Shape.tiny.first { $0.name == name })
    let backend = try CUDABackend(device: EmulatedDevice())
    let cells = [ShapeBench.Cell(batch: 2, context: 20), ShapeBench.Cell(batch: 1, context: 40)]
    var measured: [ShapeBench.Cell] = []
    try ShapeBench(backend, repeats: 1).run(shape, cells: cells) { rows in
      #expect(
        rows.map(\.mode) == (shape.neurons.isEmpty ? [.dense, .heads] : [.dense, .mlp, .heads, .polar]))
      for row in rows where row.mode.selectsHeads { #expect(row.headDensity == 0.5) }
      measured += rows.prefix(1).map { ShapeBench.Cell(batch: $0.batch, context: $0.context) }
    }
    #expect(measured == cells)
    #expect(backend.failure == nil)
    #expect(ShapeBench.memoryBytes(shape, batch: 2, context: 20) > 0)
  }

  /// The sizes of the published shapes' weights in bf16, as their checkpoints have them.
  @Test func publishedShapesHaveTheSizesOfTheirCheckpoints() {
    let gigabytes = Dictionary(
      uniqueKeysWithValues: ShapeBench.Shape.published.map {
        ($0.name, Double(ShapeBench.memoryBytes($0, batch: 1, context: 1)) / 1e9)
      })
    for (name, least, most) in [
      ("opt-6.7b", 13.0, 16.5), ("opt-30b", 59.5, 65), ("llama-2-7b", 13.4, 15.2),
      ("llama-2-13b", 25.9, 27.6),
      ("llama-3.1-8b", 16, 17.6), ("mistral-7b", 14.4, 16),
    ] {
      let bytes = gigabytes[name] ?? 0
      #expect(bytes > least && bytes < most, "\(name): \(bytes) GB")
    }
  }
}
