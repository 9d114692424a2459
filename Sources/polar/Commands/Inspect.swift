import ArgumentParser
import Foundation
import PolarFormats

struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Prints a model file's architecture, shapes, sizes, and what sparsity applies to it.")

  @Argument(help: "A GGUF file, or a folder with config.json and *.safetensors.")
  var model: String

  func run() throws {
    let file = try ModelFile.open(URL(fileURLWithPath: model))
    print(ModelSummary(file).text())
  }
}
