import ArgumentParser
import Foundation

/// The command line of Polar.
@main
struct PolarCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "polar",
    abstract: "LLM inference with contextual head sparsity (Polar Sparsity, arXiv 2505.14884).",
    discussion: """
      Models are GGUF files, or folders in Hugging Face layout (config.json, *.safetensors, tokenizer.json).
      Start with `polar demo`; then `polar inspect MODEL`, `polar calibrate MODEL --text FILE`,
      `polar generate MODEL --profile PROFILE --prompt TEXT`.
      """,
    version: "0.1.0",
    subcommands: [
      GenerateCommand.self, ChatCommand.self, CalibrateCommand.self, BenchCommand.self,
      PerplexityCommand.self, InspectCommand.self, DoctorCommand.self, KernelsCommand.self, DemoCommand.self,
    ])

  static func main() async {
    // A closed standard stream would give its number to the next file that is opened, and text would go there.
    var descriptor: Int32
    repeat { descriptor = open("/dev/null", O_RDWR) } while (0...STDERR_FILENO).contains(descriptor)
    close(descriptor)
    await main(nil)
    do { try flushOutput() } catch { exit(withError: error) }
  }
}
