import ArgumentParser

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
}
