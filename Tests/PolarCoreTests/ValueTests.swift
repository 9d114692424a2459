import PolarCore
import PolarTestSupport
import Testing

@Suite struct WorkspaceTests {
  @Test func tensorsAreAlignedAndDisjoint() {
    let memory = HeapMemory(byteCount: 1024)
    var workspace = Workspace(memory)
    let a = workspace.take(rows: 3, columns: 5)  // 60 bytes, rounded up to 64
    let b = workspace.take(columns: 1, dtype: .u8)
    let c = workspace.take(rows: 2, columns: 9, dtype: .bf16)
    #expect(a.address == memory.base)
    #expect(b.address == memory.base.advanced(by: 64))
    #expect(c.address == memory.base.advanced(by: 128))
    #expect((a.rows, a.columns, a.rowStride) == (3, 5, 5))
    #expect((b.rows, b.columns, b.dtype) == (1, 1, .u8))
    #expect(c.dtype == .bf16)
    #expect(workspace.capacity == 1024)
  }

  @Test func releaseGivesBackAndPeakStays() {
    var workspace = Workspace(HeapMemory(byteCount: 512))
    _ = workspace.take(columns: 16)
    let mark = workspace.mark()
    let first = workspace.take(columns: 48)
    workspace.release(to: mark)
    let second = workspace.take(columns: 16)
    #expect(first.address == second.address)
    #expect(workspace.peak == 64 + 192)
    workspace.reset()
    #expect(workspace.mark() == 0)
    #expect(workspace.peak == 256)
  }

  @Test func exactlyFullIsNotTooMuch() {
    var workspace = Workspace(HeapMemory(byteCount: 128))
    _ = workspace.take(columns: 16)
    _ = workspace.take(columns: 16)
    #expect(workspace.mark() == workspace.capacity)
  }
}

@Suite struct TensorTests {
  let base = Address(4096)

  @Test func aVectorIsOneRow() {
    let tensor = Tensor(base, columns: 7)
    #expect((tensor.rows, tensor.columns, tensor.rowStride, tensor.count) == (1, 7, 7, 7))
    #expect(tensor.dtype == .f32)
    #expect(tensor.isContiguous)
  }

  @Test func rowViewsKeepTheStride() {
    let tensor = Tensor(base, rows: 5, columns: 3, rowStride: 8)
    let view = tensor.rows(2..<4)
    #expect(view.address == Address(4096 + 2 * 8 * 4))
    #expect((view.rows, view.columns, view.rowStride) == (2, 3, 8))
    #expect(!view.isContiguous)
    #expect(tensor.rows(4..<5).isContiguous)
  }

  @Test(arguments: [(DType.f32, 4), (.i32, 4), (.bf16, 2), (.u8, 1)])
  func columnViewsMoveByElements(dtype: DType, bytes: Int) {
    let view = Tensor(base, rows: 2, columns: 10, dtype: dtype).columns(3..<5)
    #expect(dtype.byteCount == bytes)
    #expect(view.address == Address(4096 + 3 * UInt(bytes)))
    #expect((view.rows, view.columns, view.rowStride, view.dtype) == (2, 2, 10, dtype))
  }

  @Test func viewsCompose() {
    let tensor = Tensor(base, rows: 6, columns: 10)
    let view = tensor.rows(1..<5).columns(4..<8).rows(2..<3)
    #expect(view.address == Address(4096 + (3 * 10 + 4) * 4))
    #expect((view.rows, view.columns) == (1, 4))
  }

  @Test func emptyViews() {
    let view = Tensor(base, rows: 3, columns: 4).rows(1..<1)
    #expect((view.rows, view.count) == (0, 0))
    #expect(view.isContiguous)
  }

  @Test func addressesMoveBothWays() {
    #expect(Address(100).advanced(by: 28).advanced(by: -64) == Address(64))
  }
}

@Suite struct KVLayerTests {
  @Test func sizes() {
    let layer = KVLayer(Address(0), pages: 5, kvHeads: 3, headDim: 64, dtype: .bf16)
    #expect(layer.blockElements == 2 * 16 * 64)
    #expect(layer.byteCount == 3 * 5 * 2048 * 2)
    let coded = KVLayer(Address(0), pages: 5, kvHeads: 3, headDim: 6, dtype: .i8)
    #expect(coded.byteCount == 5 * 3 * (2 * 16 * 8 + 64), "codes of padded vectors and two scales a token")
    let wide = KVLayer(Address(0), pages: 5, kvHeads: 3, headDim: 64, dtype: .f32)
    #expect(wide.byteCount == 2 * layer.byteCount)
    #expect(KVPage.tokens == 16)
  }
}

@Suite struct ForwardBatchTests {
  @Test func countsComeFromTheTensors() {
    let none = Address(0)
    let batch = ForwardBatch(
      tokens: Tensor(none, columns: 7, dtype: .i32), positions: Tensor(none, columns: 7, dtype: .i32),
      slots: Tensor(none, columns: 7, dtype: .i32), rowSequences: Tensor(none, columns: 7, dtype: .i32),
      blockTables: Tensor(none, rows: 3, columns: 40, dtype: .i32),
      logitRows: Tensor(none, columns: 2, dtype: .i32), isDecode: false, longestContext: 600)
    #expect((batch.rows, batch.sequences, batch.logitCount, batch.longestContext) == (7, 3, 2, 600))
    #expect(!batch.isDecode)
  }
}

@Suite struct PolarErrorTests {
  @Test(arguments: [
    (PolarError.file(path: "a.gguf", reason: "cannot be opened"), "a.gguf: cannot be opened"),
    (.malformed(path: "m", reason: "short"), "m: malformed: short"),
    (.unsupported(path: "m", what: "Q2_K"), "m: unsupported: Q2_K"),
    (.configuration(field: "heads", reason: "is 0"), "model configuration: heads: is 0"),
    (.weight(name: "w", reason: "is missing"), "weight 'w': is missing"),
    (.profile(path: "p", reason: "of another model"), "profile p: of another model"),
    (.request(field: "prompt", reason: "is empty"), "request: prompt: is empty"),
    (.weight(name: "a\u{1B}[2Jb\n\0é", reason: "is left over"), #"weight 'a\u{1B}[2Jb\n\0é': is left over"#),
    (.outOfMemory(what: "K and V", bytes: 5), "out of memory: K and V needs 5 bytes"),
  ])
  func eachIsOneLine(error: PolarError, text: String) {
    #expect(error.description == text)
    #expect(!error.description.contains("\n"))
  }
}
