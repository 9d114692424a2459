import Foundation
import PolarCore
import PolarFormats
import PolarTestSupport
import Testing

@testable import Polar

@Suite struct DeviceTests {
  /// A folder with a configuration and one tensor of each type, `[rows, 2]`.
  private func folder(_ tensors: [(dtype: String, rows: Int)]) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    try FileManager.default.copyItem(
      at: Places.fixtures.appendingPathComponent("models/llama-mha/config.json"),
      to: folder.appendingPathComponent("config.json"))
    var (entries, offset) = ([String](), 0)
    for (index, tensor) in tensors.enumerated() {
      let end = offset + tensor.rows * 2 * (tensor.dtype == "F32" ? 4 : 2)
      entries.append(
        #""t\#(index)":{"dtype":"\#(tensor.dtype)","shape":[\#(tensor.rows),2],"data_offsets":[\#(offset),\#(end)]}"#
      )
      offset = end
    }
    let header = Data("{\(entries.joined(separator: ","))}".utf8)
    var data = withUnsafeBytes(of: UInt64(header.count).littleEndian) { Data($0) }
    data += header + Data(count: offset)
    try data.write(to: folder.appendingPathComponent("model.safetensors"))
    return folder
  }

  /// A GPU computes in what most of the file is in, unless it is told.
  @Test func elementsFollowTheFile() throws {
    let half = try folder([("F16", 6), ("F32", 1)])
    let mixed = try folder([("F16", 2), ("BF16", 3)])
    defer {
      for url in [half, mixed] { try? FileManager.default.removeItem(at: url) }
    }
    func element(_ weights: WeightPrecision, _ url: URL?) throws -> String {
      "\(try Device.element(weights: weights, model: url))"
    }
    #expect(try element(.stored, half) == "f16")
    #expect(try element(.stored, mixed) == "bf16")
    #expect(try element(.stored, nil) == "bf16")
    #expect(try element(.bf16, half) == "bf16")
    #expect(try element(.f16, mixed) == "f16")
  }

  @Test func theCPURefusesHalfPrecision() {
    #expect(throws: PolarError.self) { try Device.cpu().makeBackend(weights: .f16) }
  }
}
