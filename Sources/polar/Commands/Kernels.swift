import ArgumentParser
import Foundation
import PolarCUDA
import PolarCore

struct KernelsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kernels", abstract: "Compiles the CUDA kernels for machines without NVRTC.",
    subcommands: [Build.self])

  struct Build: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Writes an archive of compiled kernels. Needs NVRTC, and no GPU.",
      discussion:
        "A file named \(KernelArchive.fileName) beside the executable is used before NVRTC is asked for.")

    @Option(help: "Architectures, separated by commas.")
    var arch = "sm_80,sm_86,sm_89,sm_90a,sm_100,sm_120"
    @Option(name: [.short, .long], help: "The file to write.")
    var output = KernelArchive.fileName

    func run() throws {
      let architectures = arch.split(separator: ",").map(String.init)
      guard !architectures.isEmpty, architectures.allSatisfy({ $0.hasPrefix("sm_") }) else {
        throw ValidationError("--arch: '\(arch)' is not a list such as sm_80,sm_90a")
      }
      let start = ContinuousClock.now
      try KernelArchive.build(architectures: architectures, path: output) { unit, architecture, bytes in
        print("\(architecture)  \(unit)  \(bytes) bytes")
      }
      print("\(output) written in \((ContinuousClock.now - start).formatted())")
    }
  }
}
