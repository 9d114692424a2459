#!/bin/sh
# Runs polar itself as an arm64 machine would, on an x86-64 Debian machine: cross-compiles the whole command line with Debian unstable's
# Swift, whose compiler is used from a root of its own and whose arm64 packages are the SDK, and runs it under qemu. The self-test checks
# every op and decode steps for both instruction sets that an arm64 machine can choose (NEON with I8MM, plain C without) and both kinds of
# KV cache; then the demo writes text. It proves that polar works there, not how fast it is.
# Needs swift (to fetch the package's dependencies), qemu-user, unshare as root or with user namespaces, network, 8 GB of disk and a
# quarter of an hour. Run from the package root. With a folder as the argument, packages and build are kept there for the next time.
set -e
work=${1:-$(mktemp -d)}
[ -n "$1" ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
work=$(realpath "$work")
triple=aarch64-unknown-linux-gnu

# Extracts Debian packages and all they depend on: root ARCHITECTURE PACKAGE...
root() {
  root="$work/$1"
  apt="$work/apt-$1"
  [ ! -e "$root/complete" ] || return 0
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$root/proc" "$root/dev" "$root/tmp"
  for folder in bin sbin lib lib64; do mkdir -p "$root/usr/$folder" && ln -sfn "usr/$folder" "$root/$folder"; done
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$apt/sources.list"
  : >"$apt/status"
  cat >"$apt/apt.conf" <<EOF
APT { Architecture "$1"; Architectures { "$1"; }; Install-Recommends "false"; Sandbox::User ""; };
Dir { Etc::SourceList "$apt/sources.list"; Etc::SourceParts "/dev/null"; State "$apt"; State::Status "$apt/status"; Cache "$apt"; };
EOF
  shift
  APT_CONFIG="$apt/apt.conf" apt-get -qq update
  APT_CONFIG="$apt/apt.conf" apt-get -qq --yes --download-only install "$@" >/dev/null
  for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
  rm -r "$apt"
  touch "$root/complete"
}

root amd64 swiftlang g++ git
root arm64 swiftlang g++
ln -sfn ../libexec/swift/lib/swift_static "$work/arm64/usr/lib/swift_static"

sdk="$work/sdks/arm64.artifactbundle"
resources="$work/arm64/usr/libexec/swift/lib"
mkdir -p "$sdk/arm64"
echo '{"schemaVersion": "1.0", "artifacts": {"arm64": {"version": "1", "type": "swiftSDK", "variants": [{"path": "arm64"}]}}}' \
  >"$sdk/info.json"
cat >"$sdk/arm64/swift-sdk.json" <<EOF
{"schemaVersion": "4.0", "targetTriples": {"$triple": {"sdkRootPath": "$work/arm64",
  "swiftResourcesPath": "$resources/swift", "swiftStaticResourcesPath": "$resources/swift_static"}}}
EOF

swift package --scratch-path "$work/build" resolve
unshare --mount --map-root-user sh -ec '
  root="$0/amd64"
  mkdir -p "$root$0" "$root$PWD"
  mount --rbind /proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount --bind "$0" "$root$0"
  mount --bind "$PWD" "$root$PWD"
  exec env -i PATH=/usr/libexec/swift/bin:/usr/bin HOME=/tmp "$(command -v chroot)" "$root" "$@"' "$work" \
  swift build --package-path "$PWD" --scratch-path "$work/build" --skip-update --swift-sdks-path "$work/sdks" --swift-sdk arm64 \
  --static-swift-stdlib -Xswiftc -use-ld=lld -c release --product polar

polar="$work/build/$triple/release/polar"
for processor in max cortex-a72; do
  for kv in bf16 int8; do
    printf '\n== -cpu %s, K and V in %s\n' "$processor" "$kv"
    qemu-aarch64 -cpu "$processor" -L "$work/arm64" "$polar" doctor --selftest --steps 3 --kv "$kv"
  done
done
qemu-aarch64 -cpu max -L "$work/arm64" "$polar" demo --batch 2 --steps 8
