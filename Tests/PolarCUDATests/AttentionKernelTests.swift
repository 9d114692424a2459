import CPolarEmulator
import PolarCore
import PolarReference
import Testing

@Suite struct AttentionKernelTests {
  static let fallbacks: [AttentionScene.Fallback] = [
    .zero, .constant, .computed, .local(sinkPages: 1, recentPages: 2), .local(sinkPages: 0, recentPages: 1),
  ]

  /// Ragged contexts: within a page, at its edges, over several chunks, and a padding row.
  static func decodeScene(headDim: Int = 64, kvHeads: Int = 2, group: Int = 4, seed: UInt64 = 1)
    -> AttentionScene
  {
    AttentionScene(
      kvHeads: kvHeads, group: group, headDim: headDim,
      sequences: [0..<1, 36..<37, 599..<600, 0..<0, 15..<16, 287..<288], seed: seed)
  }

  private func expectClose(_ got: HostTensor<Float>, _ want: HostTensor<Float>, _ what: String) {
    let error = worstError(got, want)
    #expect(error <= Tolerance.attentionRounded, "\(what): error \(error)")
  }

  @Test(arguments: [2, 6, 16, 32, 48, 64, 80, 96, 128, 256])
  func decodeIsRightForEachHeadDim(headDim: Int) throws {
    let scene = AttentionScene(
      kvHeads: 2, group: 3, headDim: headDim, sequences: [0..<1, 0..<0, 16..<17, 299..<300],
      seed: UInt64(headDim))
    let values = scene.values()
    let want = try scene.expected(values)
    for seed in schedules {
      expectClose(try scene.decode(values, EmulatedKernels(seed: seed)), want, "schedule \(seed)")
    }
    expectClose(try scene.prefill(values, EmulatedKernels()), want, "prefill")
  }

  @Test(arguments: [(1, 1), (6, 1), (1, 7), (2, 8), (1, 16)])
  func groupsOfEverySize(kvHeads: Int, group: Int) throws {
    for (index, fallback) in Self.fallbacks.enumerated() {
      let scene = Self.decodeScene(headDim: 32, kvHeads: kvHeads, group: group, seed: UInt64(index))
      let values = scene.values()
      let got = try scene.decode(
        values, mask: values.mask, fallback: fallback, EmulatedKernels(seed: UInt64(index)))
      expectClose(got, try scene.expected(values, mask: values.mask, fallback: fallback), "\(fallback)")
    }
  }

  @Test(arguments: [1, 15, 16, 17, 40, 300])
  func windows(window: Int) throws {
    for fallback in Self.fallbacks {
      var scene = Self.decodeScene(headDim: 16, seed: UInt64(window))
      scene.window = window
      let values = scene.values()
      let got = try scene.decode(values, mask: values.mask, fallback: fallback, EmulatedKernels())
      expectClose(got, try scene.expected(values, mask: values.mask, fallback: fallback), "\(fallback)")
    }
  }

  /// A row's bits depend on its own sequence and mask alone: not on the batch, the grid or the order of threads.
  @Test func decodeRowsDoNotDependOnTheBatch() throws {
    let fallback = AttentionScene.Fallback.local(sinkPages: 1, recentPages: 2)
    let scene = Self.decodeScene()
    let values = scene.values()
    let whole = try scene.decode(values, mask: values.mask, fallback: fallback, EmulatedKernels())
    for (blocks, seed) in [(1, UInt64(4)), (2, 5), (64, 6)] {
      let again = try scene.decode(
        values, mask: values.mask, fallback: fallback, blocks: blocks, EmulatedKernels(seed: seed))
      #expect(sameBits(again, whole), "\(blocks) blocks")
    }
    // Two rows alone: the same sequences and values, the others padding.
    var alone = scene
    alone.sequences = scene.sequences.enumerated().map {
      $0.offset == 2 || $0.offset == 4 ? $0.element : 0..<0
    }
    let parts = AttentionScene.Values(
      layout: BatchLayout(
        zip(values.layout.sequences, alone.sequences).map {
          .init(positions: $1, pages: $1.isEmpty ? [] : $0.pages)
        }),
      key: keep(values.key, scene, alone), value: keep(values.value, scene, alone), query: values.query,
      mask: values.mask, constants: values.constants, computed: values.computed)
    let got = try alone.decode(parts, mask: values.mask, fallback: fallback, blocks: 3, EmulatedKernels())
    #expect(sameBits(got.rows([2, 4]), whole.rows([2, 4])))
    #expect(got.rows([0, 1, 3, 5]).values.allSatisfy { $0 == 0 })
  }

  private func keep(_ all: HostTensor<Float>, _ scene: AttentionScene, _ part: AttentionScene) -> HostTensor<
    Float
  > {
    var rows: [Int] = []
    var first = 0
    for (whole, kept) in zip(scene.sequences, part.sequences) {
      if !kept.isEmpty { rows += first..<first + whole.upperBound }
      first += whole.upperBound
    }
    return all.rows(rows)
  }

  @Test func everyHeadSelectedIsDense() throws {
    let scene = Self.decodeScene(headDim: 48)
    let values = scene.values()
    let dense = try scene.decode(values, EmulatedKernels())
    let all = HostTensor<UInt8>(repeating: 1, rows: scene.rows, columns: scene.heads)
    for fallback in Self.fallbacks {
      #expect(
        sameBits(try scene.decode(values, mask: all, fallback: fallback, EmulatedKernels(seed: 9)), dense))
    }
    // A local set that covers everything is dense, too, even for heads that are not selected.
    let covering = AttentionScene.Fallback.local(sinkPages: 50, recentPages: 50)
    #expect(
      sameBits(try scene.decode(values, mask: values.mask, fallback: covering, EmulatedKernels()), dense))
  }

  @Test func localHeadsDoNotDependOnTheirGroup() throws {
    let fallback = AttentionScene.Fallback.local(sinkPages: 1, recentPages: 2)
    let scene = Self.decodeScene()
    let values = scene.values()
    let none = HostTensor<UInt8>(repeating: 0, rows: scene.rows, columns: scene.heads)
    let local = try scene.decode(values, mask: none, fallback: fallback, EmulatedKernels())
    let mixed = try scene.decode(values, mask: values.mask, fallback: fallback, EmulatedKernels(seed: 3))
    for row in 0..<scene.rows {
      for column in 0..<local.columns where values.mask[row, column / scene.headDim] == 0 {
        #expect(mixed[row, column] == local[row, column])
      }
    }
  }

  @Test func aStepOfPaddingAloneIsZero() throws {
    let scene = AttentionScene(sequences: [0..<0, 0..<0], seed: 3)
    let values = scene.values()
    #expect(try scene.decode(values, EmulatedKernels()).values.allSatisfy { $0 == 0 })
  }

  @Test(arguments: [
    AttentionSpan.full, .local(sinkPages: 1, recentPages: 2), .local(sinkPages: 0, recentPages: 1),
    .local(sinkPages: 3, recentPages: 4),
  ])
  func prefillIsRight(span: AttentionSpan) throws {
    let scenes = [
      AttentionScene(kvHeads: 2, group: 2, headDim: 16, sequences: [0..<33, 0..<1, 0..<17], seed: 1),
      AttentionScene(
        kvHeads: 1, group: 3, headDim: 64, sequences: [90..<100, 0..<31, 0..<0, 15..<16], seed: 2),
      AttentionScene(kvHeads: 1, group: 1, headDim: 80, sequences: [150..<228], seed: 3),
      AttentionScene(kvHeads: 1, group: 8, headDim: 256, sequences: [1..<8, 40..<49], seed: 4),
      AttentionScene(kvHeads: 2, group: 7, headDim: 32, sequences: [100..<113, 3..<4], window: 40, seed: 5),
    ]
    for scene in scenes {
      let values = scene.values()
      let want = try scene.expected(values, prefill: span)
      for seed in schedules {
        expectClose(
          try scene.prefill(values, span: span, EmulatedKernels(seed: seed)), want, "schedule \(seed)")
      }
    }
  }

  /// Neither the other rows of a tile nor the chunk that a row comes in matter.
  @Test func prefillRowsDoNotDependOnTheChunk() throws {
    let scene = AttentionScene(kvHeads: 1, group: 4, headDim: 32, sequences: [0..<90], seed: 8)
    let values = scene.values()
    let whole = try scene.prefill(values, EmulatedKernels())
    for cut in [1, 16, 50] {
      var later = scene
      later.sequences = [cut..<90]
      let pages = values.layout.sequences[0].pages
      let part = AttentionScene.Values(
        layout: BatchLayout([.init(positions: cut..<90, pages: pages)]), key: values.key, value: values.value,
        query: values.query.rows(cut..<90), mask: values.mask, constants: values.constants,
        computed: values.computed)
      #expect(sameBits(try later.prefill(part, EmulatedKernels(seed: 2)), whole.rows(cut..<90)))
    }
  }

  @Test(arguments: [64, 128]) func halfPrecisionElements(headDim: Int) throws {
    let scene = Self.decodeScene(headDim: headDim)
    let values = scene.values()
    let kernels = EmulatedKernels(isF16: true)
    let got = try scene.decode(values, mask: values.mask, kernels)
    expectClose(got, try scene.expected(values, mask: values.mask), "decode")
    expectClose(try scene.prefill(values, kernels), try scene.expected(values), "prefill")
  }
}
