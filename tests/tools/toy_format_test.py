"""docs/adding-a-quant-format.md names every file that a new number format touches: proved by a toy format.

toy_format.patch adds `toy8`. Always checked: it touches only files of the page's table, and applies to this tree.
With NIBBLE_TOY_FORMAT_DIR set (./dev toy-format), the patched tree is built there and its tests are run.
"""
import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCH = Path(__file__).with_name("toy_format.patch")
PAGE = ROOT / "docs" / "adding-a-quant-format.md"
COPIED = ("CMakeLists.txt", "cmake", "docs", "include", "src", "tests", "bench")


def touched():
    return set(re.findall(r"^diff --git a/(\S+) b/\S+$", PATCH.read_text(), re.MULTILINE))


def named():
    """The first column of the page's table as regular expressions of paths."""
    patterns = []
    for row in re.findall(r"^\| (`.*?`.*?) \|", PAGE.read_text(), re.MULTILINE):
        folder = ""
        for name in re.findall(r"`([^`]+)`", row):
            if "/" not in name:  # beside the one before
                name = folder + name
            folder = name.rpartition("/")[0] + "/"
            name = re.escape(name.replace("xyz4", "toy8"))
            name = re.sub(r"\\\{(.*?)\\\}", lambda m: "(" + m[1].replace(",", "|") + ")", name)
            patterns.append(name.replace(r"\*", "[^/]*") + (".*" if name.endswith("/") else ""))
    return patterns


def apply(folder, *options):
    """As in a folder of no repository: paths are below it, ignored or not."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    environment.pop("GIT_DIR", None)
    return subprocess.run(["git", "apply", *options, str(PATCH)], cwd=folder, env=environment, capture_output=True,
                          text=True)


class ToyFormat(unittest.TestCase):
    def test_touches_only_what_the_page_names(self):
        patterns = named()
        self.assertGreater(len(patterns), 10)
        files = touched()
        self.assertGreater(len(files), 15)
        for file in sorted(files):
            self.assertTrue(any(re.fullmatch(p, file) for p in patterns), f"{file} is not in {PAGE.name}")

    def test_applies_to_this_tree(self):
        answer = apply(ROOT, "--check")
        self.assertEqual(answer.returncode, 0, answer.stderr + "\nmake the patch anew: it is the example of the page")

    @unittest.skipUnless(os.environ.get("NIBBLE_TOY_FORMAT_DIR"), "builds most of nibble: ./dev toy-format")
    def test_works(self):
        folder = Path(os.environ["NIBBLE_TOY_FORMAT_DIR"]).resolve()
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target)  # keeps times: what did not change is not built again
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        answer = apply(folder)
        self.assertEqual(answer.returncode, 0, answer.stderr)

        def run(*command):
            self.assertEqual(subprocess.run(command, cwd=folder).returncode, 0, command)
        run("cmake", "-S", ".", "-B", "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DNIBBLE_BENCH=OFF")
        run("cmake", "--build", "build", "--target", "quant_test", "formats_test", "kernels_test", "nibble")
        run("build/tests/quant/quant_test", "--gtest_filter=*Toy8*:QuantFormat*")
        run("build/tests/formats/formats_test", "--gtest_filter=FindMatrix*")
        run("build/tests/kernels/kernels_test")
        run("build/nibble", "bench", "decode", "--load-format", "dummy", "--config",
            str(ROOT / "models" / "demo" / "config.json"), "--quantization", "toy8")


if __name__ == "__main__":
    unittest.main()
