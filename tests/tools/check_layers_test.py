"""The include-direction checker must accept the house as drawn and catch each kind of trespass."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import check_layers  # noqa: E402


class CheckLayers(unittest.TestCase):
    def violations(self, files):
        """Violations in a tree of {path: text}."""
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
            return check_layers.check_tree(root)

    def assert_accepted(self, path, text):
        self.assertEqual(self.violations({path: text}), [])

    def assert_rejected(self, path, text, line=1):
        found = self.violations({path: text})
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith(f"{path}:{line}: "), found)

    def test_downwards_is_allowed(self):
        self.assert_accepted("src/quant/a.cpp", '#include "core/tensor.h"\n#include "quant/b.h"\n#include <vector>\n')
        self.assert_accepted("src/formats/a.cpp", '#include "quant/matrix_view.h"\n')
        self.assert_accepted("src/kernels/cpu/a.cpp", '#include "kernels/cpu/panel.h"\n#include "quant/mxfp4.h"\n')
        self.assert_accepted("src/layers/a.h", '#include "kernels/kernel_table.h"\n#include "kernels/args/moe.h"\n')
        self.assert_accepted("src/models/deepseek_v3/a.cpp", '#include "formats/checkpoint.h"\n#include "layers/mla.h"\n')
        self.assert_accepted("src/apps/cli/run.cpp", '#include "nibble/llm.h"\n#include "cli/args.h"\n')

    def test_upwards_and_sideways_are_not(self):
        self.assert_rejected("src/core/a.cpp", '\n#include "quant/mxfp4.h"\n', line=2)
        self.assert_rejected("src/core/a.cpp", '#include "nibble/llm.h"\n')
        self.assert_rejected("src/quant/a.cpp", '#include "formats/checkpoint.h"\n')
        self.assert_rejected("src/formats/a.cpp", '#include "kernels/weight.h"\n')
        self.assert_rejected("src/text/a.cpp", '#include "formats/checkpoint.h"\n')
        self.assert_rejected("src/text/a.cpp", '#include "models/model.h"\n')
        self.assert_rejected("src/kernels/ref/a.cpp", '#include "layers/context.h"\n')
        self.assert_rejected("src/layers/a.cpp", '#include "formats/checkpoint.h"\n')
        self.assert_rejected("src/models/a.cpp", '#include "engine/engine.h"\n')
        self.assert_rejected("src/models/a.cpp", '#include "text/bpe.h"\n')

    def test_layers_see_the_kernels_interface_only(self):
        self.assert_rejected("src/layers/a.cpp", '#include "kernels/cpu/panel.h"\n')
        self.assert_rejected("src/models/a.cpp", '#include "kernels/ref/linear.h"\n')

    def test_engine_sees_the_model_interface_only(self):
        self.assert_accepted("src/engine/a.cpp", '#include "models/model.h"\n#include "layers/context.h"\n')
        self.assert_rejected("src/engine/a.cpp", '#include "layers/linear.h"\n')
        self.assert_rejected("src/engine/a.cpp", '#include "models/deepseek_v3/model.h"\n')
        self.assert_rejected("src/engine/a.cpp", '#include "formats/checkpoint.h"\n')

    def test_modules_take_pages_and_batches_of_the_engine(self):
        self.assert_accepted("src/modules/a.cpp", '#include "engine/page_pool.h"\n#include "layers/linear.h"\n')
        self.assert_rejected("src/modules/a.cpp", '#include "engine/scheduler.h"\n')
        self.assert_rejected("src/modules/a.cpp", '#include "models/model.h"\n')
        self.assert_rejected("src/engine/a.cpp", '#include "modules/packing.h"\n')

    def test_text_joins_the_engine_in_llm_cpp_alone(self):
        self.assert_accepted("src/engine/llm.cpp", '#include "text/detokenizer.h"\n')
        self.assert_rejected("src/engine/scheduler.cpp", '#include "text/detokenizer.h"\n')

    def test_apps_and_public_headers_are_strangers(self):
        self.assert_rejected("src/apps/cli/run.cpp", '#include "core/log.h"\n')
        self.assert_rejected("include/nibble/a.h", '#include "core/tensor.h"\n')

    def test_an_unknown_folder_is_no_layer(self):
        self.assert_rejected("src/misc/a.h", "\n")

    def test_intrinsics_only_in_kernels_cpu(self):
        self.assert_accepted("src/kernels/cpu/avx2/a.cpp", "#include <immintrin.h>\n")
        self.assert_rejected("src/kernels/ref/a.cpp", "#include <immintrin.h>\n")
        self.assert_rejected("bench/kernels/a.cpp", "#include <x86intrin.h>\n")
        self.assert_rejected("src/core/a.cpp", "#include <arm_neon.h>\n")

    def test_cuda_only_in_kernels_cuda_and_comm(self):
        self.assert_accepted("src/kernels/cuda/device.cpp", "#include <cuda_runtime.h>\n")
        self.assert_accepted("src/comm/nccl.cpp", "#include <nccl.h>\n")
        self.assert_rejected("src/quant/a.cpp", "#include <cuda_fp8.h>\n")

    def test_heavy_headers_stay_out_of_headers(self):
        self.assert_accepted("src/formats/a.cpp", "#include <simdjson.h>\n")
        self.assert_rejected("src/formats/a.h", "#include <simdjson.h>\n")

    def test_regex_size_and_promises(self):
        self.assert_rejected("src/text/a.cpp", "std::regex r;\n")
        self.assert_rejected("src/text/a.cpp", "#include <regex>\n")
        self.assert_rejected("src/text/a.cpp", "// line\n" * 801)
        self.assert_accepted("src/text/a.cpp", "// Generated by tools/make_tables.py\n" + "// line\n" * 801)
        self.assert_rejected("tools/a.py", "# TO" "DO: later\n")

    def test_the_exit_status_tells(self):
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "src/core/a.cpp")
            source.parent.mkdir(parents=True)
            source.write_text('#include "engine/engine.h"\n', encoding="utf-8")
            run = subprocess.run([sys.executable, check_layers.__file__, directory], capture_output=True, check=False)
            self.assertEqual(run.returncode, 1)
            self.assertIn(b"src/core/a.cpp:1: ", run.stdout)


if __name__ == "__main__":
    unittest.main()
