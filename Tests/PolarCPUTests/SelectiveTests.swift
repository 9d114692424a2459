import PolarCPU
import PolarCore
import PolarReference
import Testing

@Suite struct SelectiveTests {
  private struct Layer {
    let rows: Int
    let hidden: Int
    let neurons: Int
    let x: HostTensor<Float>
    let up: HostTensor<Float>
    let down: HostTensor<Float>
    let bias: HostTensor<Float>
    let list: [Int32]

    init(rows: Int, hidden: Int, neurons: Int) {
      var generator = SplitMix64(seed: UInt64(rows * hidden + neurons))
      self.rows = rows
      self.hidden = hidden
      self.neurons = neurons
      x = generator.matrix(rows, hidden, bf16: false)
      up = generator.matrix(neurons, hidden)
      down = generator.matrix(neurons, hidden)
      bias = generator.matrix(1, neurons)
      list = (0..<Int32(neurons)).shuffled(using: &generator).prefix(neurons / 3).sorted()
    }

    /// Up and down of the listed neurons (nil: all, without a list): `[rows, hidden]`.
    func selective(_ backend: any Backend, list: [Int32]?) throws -> [Float] {
      let pool = TensorPool(backend)
      let neurons = try list.map {
        ActiveNeurons(
          indices: try pool.tensor(HostTensor($0)), count: try pool.tensor(HostTensor([Int32($0.count)])))
      }
      let h = try pool.output(rows: rows, columns: list?.count ?? self.neurons)
      let out = try pool.output(rows: rows, columns: hidden)
      backend.selectiveUp(
        h, try pool.tensor(x), weight: try pool.halves(up), bias: try pool.tensor(bias), threshold: 0,
        neurons: neurons)
      backend.selectiveDown(out, h, weight: try pool.halves(down), bias: nil, neurons: neurons)
      return pool.read(out).values
    }

    /// The same of all neurons by linear layers.
    func dense(_ backend: any Backend) throws -> [Float] {
      let pool = TensorPool(backend)
      let h = try pool.output(rows: rows, columns: neurons)
      let out = try pool.output(rows: rows, columns: hidden)
      var transposed = HostTensor<Float>(repeating: 0, rows: hidden, columns: neurons)
      for n in 0..<neurons { for d in 0..<hidden { transposed[d, n] = down[n, d] } }
      backend.linear(h, try pool.tensor(x), weight: try pool.weight(up), bias: try pool.tensor(bias))
      backend.relu(h)
      backend.linear(out, h, weight: try pool.weight(transposed), bias: nil)
      return pool.read(out).values
    }
  }

  private static let layers = [
    Layer(rows: 1, hidden: 96, neurons: 130), Layer(rows: 4, hidden: 70, neurons: 64),
    Layer(rows: 7, hidden: 416, neurons: 98), Layer(rows: 40, hidden: 130, neurons: 300),
  ]

  /// With every neuron selected the output is the dense MLP's, bit for bit, by whatever kernels that one runs on.
  @Test(arguments: CPUISA.allCases.filter(\.isSupported))
  func everyNeuronIsTheDenseMLP(isa: CPUISA) throws {
    let backend = try CPUBackend(threads: 2, isa: isa)
    for layer in Self.layers {
      let dense = try layer.dense(backend)
      #expect(try layer.selective(backend, list: Array(0..<Int32(layer.neurons))) == dense)
      #expect(try layer.selective(backend, list: nil) == dense)
    }
  }

  /// The same batch in the same order gives the same bits on any number of threads.
  @Test(arguments: CPUISA.allCases.filter(\.isSupported))
  func threadsDoNotMatter(isa: CPUISA) throws {
    for layer in Self.layers {
      let one = try layer.selective(CPUBackend(threads: 1, isa: isa), list: layer.list)
      for threads in [2, 3, 7] {
        #expect(try layer.selective(CPUBackend(threads: threads, isa: isa), list: layer.list) == one)
      }
    }
  }
}

extension TensorPool {
  /// A matrix as bf16.
  fileprivate func halves(_ host: HostTensor<Float>) throws -> Tensor {
    let tensor = try output(rows: host.rows, columns: host.columns, dtype: .bf16)
    let halves = host.values.map { UInt16($0.roundedToBF16.bitPattern >> 16) }
    halves.withUnsafeBytes { backend.upload($0, to: tensor.address) }
    return tensor
  }
}
