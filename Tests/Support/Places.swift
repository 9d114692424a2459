public import Foundation

/// Where tests find files: the package, and data that lies beside it on some machines.
public enum Places {
  /// The package's root directory.
  public static let package = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

  /// Tests/Fixtures.
  public static let fixtures = package.appendingPathComponent("Tests/Fixtures")

  /// A file in the directory `shared` beside the package, or nil, with a line that says so, where it does not exist.
  public static func shared(_ path: String) -> URL? {
    let file = package.appendingPathComponent("../shared").standardizedFileURL.appendingPathComponent(path)
    guard FileManager.default.fileExists(atPath: file.path) else {
      print("not checked: ../shared/\(path) does not exist")
      return nil
    }
    return file
  }
}
