// swift-tools-version: 6.2
import PackageDescription

let settings: [SwiftSetting] = [
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("InternalImportsByDefault"),
]

/// A library target of the package with the shared Swift settings.
func room(
  _ name: String, _ dependencies: [Target.Dependency] = [], resources: [Resource] = []
) -> Target {
  .target(
    name: name, dependencies: dependencies, resources: resources, swiftSettings: settings)
}

/// The test target of a library target.
func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(
    name: name, dependencies: dependencies + ["PolarTestSupport"], swiftSettings: settings)
}

let package = Package(
  name: "polar",
  products: [
    .library(name: "Polar", targets: ["Polar"]),
    .executable(name: "polar", targets: ["polar-cli"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    .package(url: "https://github.com/apple/swift-crypto", from: "4.5.0"),
  ],
  targets: [
    // L0: values and kernels
    room("PolarCore"),
    .target(name: "CPolarCPU"),
    .target(
      name: "CPolarCUDA", exclude: ["kernels"],
      linkerSettings: [.linkedLibrary("dl", .when(platforms: [.linux]))]),
    // L1: file formats and backends
    room("PolarFormats", ["PolarCore", .product(name: "Crypto", package: "swift-crypto")]),
    room("PolarCPU", ["PolarCore", "CPolarCPU"]),
    room(
      "PolarCUDA", ["PolarCore", "CPolarCUDA", .product(name: "Crypto", package: "swift-crypto")]),
    room("PolarReference", ["PolarCore"]),
    // L2
    room("PolarSparsity", ["PolarCore", "PolarFormats"]),
    room("PolarTokenizer", ["PolarCore"]),
    // L3
    room("PolarModels", ["PolarCore", "PolarFormats", "PolarSparsity"]),
    // L4
    room(
      "PolarEngine",
      ["PolarCore", "PolarFormats", "PolarSparsity", "PolarModels", "PolarTokenizer"]),
    // L5
    room(
      "PolarCalibration",
      ["PolarCore", "PolarFormats", "PolarSparsity", "PolarModels", "PolarEngine", "CPolarCPU"]),
    room(
      "PolarBench",
      ["PolarCore", "PolarFormats", "PolarSparsity", "PolarModels", "PolarEngine", "CPolarCPU"]),
    room(
      "Polar",
      [
        "PolarCore", "PolarFormats", "PolarCPU", "PolarCUDA", "PolarReference", "PolarSparsity",
        "PolarTokenizer", "PolarModels", "PolarEngine", "PolarCalibration", "PolarBench",
      ],
      resources: [.copy("Resources/demo")]),
    // L6
    .executableTarget(
      name: "polar-cli",
      dependencies: [
        "Polar", "PolarCUDA", "PolarCore", "PolarFormats", "PolarReference", "PolarSparsity",
        "PolarTokenizer", "PolarModels", "PolarEngine", "PolarCalibration", "PolarBench",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      path: "Sources/polar",
      swiftSettings: settings),
    // Tests
    .target(
      name: "PolarTestSupport", dependencies: ["PolarCore"], path: "Tests/Support",
      swiftSettings: settings),
    // Counts allocations in the test executable.
    .target(name: "CMallocCounter", path: "Tests/CMallocCounter"),
    // Runs the CUDA kernels on the CPU. Optimised in every build: it executes them thread by thread.
    .target(
      name: "CPolarEmulator", path: "Tests/Emulator",
      cxxSettings: [
        .headerSearchPath("../../Sources/CPolarCUDA/include"), .unsafeFlags(["-O2"]),
      ]),
    // The emulator as a device of the CUDA backend.
    .target(
      name: "EmulatedCUDA", dependencies: ["PolarCore", "PolarCUDA", "CPolarEmulator"],
      path: "Tests/EmulatedCUDA", swiftSettings: settings),
    tests("PolarCoreTests", ["PolarCore"]),
    tests("PolarFormatsTests", ["PolarFormats"]),
    tests("PolarReferenceTests", ["PolarReference"]),
    tests("PolarCPUTests", ["PolarCPU", "PolarReference"]),
    tests(
      "PolarCUDATests",
      [
        "PolarCUDA", "CPolarCUDA", "CPolarEmulator", "EmulatedCUDA", "PolarCore", "PolarReference",
        "PolarModels", "PolarEngine", "PolarFormats", "PolarSparsity", "PolarBench", "PolarCalibration",
        "PolarCPU",
      ]),
    tests("PolarSparsityTests", ["PolarSparsity", "PolarReference", "PolarCPU"]),
    tests("PolarTokenizerTests", ["PolarTokenizer"]),
    tests(
      "PolarModelsTests", ["PolarModels", "PolarReference", "PolarCPU", "PolarCUDA", "EmulatedCUDA"]),
    tests(
      "PolarEngineTests",
      [
        "PolarEngine", "PolarCore", "PolarFormats", "PolarSparsity", "PolarModels",
        "PolarTokenizer", "PolarReference", "PolarCPU", "CMallocCounter",
      ]),
    tests("PolarCalibrationTests", ["PolarCalibration", "PolarReference", "PolarCPU"]),
    tests("PolarTests", ["Polar", "PolarCUDA", "PolarCore", "PolarFormats", "EmulatedCUDA"]),
  ],
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx17
)
