"""Stand-ins for CUDA's libraries, so that torch runs without them.

The index has torch for x86-64 only with CUDA, whose libraries take four gigabytes. The survey uses
the CPU alone, but the loader wants every library to be there. This program makes empty libraries in
their place, with all the symbols that torch looks for, by the C compiler and `nm`.

    python3 stand_ins.py FOLDER_OF_TORCH
"""

import collections
import pathlib
import subprocess
import sys
import tempfile

# The first letters of the symbols of each library.
PREFIXES = {
    "libcublas.so.13": ["cublas"],
    "libcublasLt.so.13": ["cublasLt"],
    "libcudnn.so.9": ["cudnn"],
    "libcufft.so.12": ["cufft"],
    "libcurand.so.10": ["curand"],
    "libcusolver.so.12": ["cusolver"],
    "libcusparse.so.12": ["cusparse"],
    "libcusparseLt.so.0": ["cusparseLt"],
    "libnccl.so.2": ["nccl", "pnccl"],
    "libnvrtc.so.13": ["nvrtc"],
    "libnvshmem_host.so.3": ["nvshmem"],
}


def wanted(libraries):
    """The (symbol, version) pairs that these libraries look for, by the library that would have them."""
    found = collections.defaultdict(set)
    command = ["nm", "--dynamic", "--undefined-only", "--format=posix", *map(str, libraries)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        symbol, _, version = line.split(" ")[0].partition("@")
        owners = [
            (len(prefix), library)
            for library, prefixes in PREFIXES.items()
            for prefix in prefixes
            if symbol.startswith(prefix)
        ]
        if owners:
            found[max(owners)[1]].add((symbol, version.lstrip("@")))
    return found


def make(library, symbols, folder):
    with tempfile.TemporaryDirectory() as work:
        source, versions = pathlib.Path(work, "empty.c"), pathlib.Path(work, "versions")
        names = sorted({symbol for symbol, _ in symbols})
        source.write_text("".join(f"void {name}(void) {{}}\n" for name in names) or "\n")
        options = []
        by_version = collections.defaultdict(list)
        for symbol, version in sorted(symbols):
            by_version[version].append(symbol)
        nodes = [
            f"{version} {{ global: {'; '.join(names)}; }};\n"
            for version, names in by_version.items()
            if version
        ]
        if nodes:
            versions.write_text("".join(nodes))
            options = [f"-Wl,--version-script={versions}"]
        output = folder / library
        command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{library}", *options]
        subprocess.run([*command, "-o", str(output), str(source)], check=True)


def main(folder):
    libraries = sorted(folder.glob("libtorch*.so")) + sorted(folder.glob("libc10*.so"))
    found = wanted(libraries)
    for library in PREFIXES:
        make(library, found[library], folder)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) / "lib")
