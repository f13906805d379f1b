"""Help, version, options from flags, environment and file, errors and exit codes."""

import json
import pathlib
import subprocess
import tempfile
import unittest

import nibble_process as nibble

COMMANDS = ["run", "chat", "logits", "tokenize", "inspect", "plan", "eval ppl", "eval kld", "eval table",
            "bench decode", "bench prefill", "bench load", "doctor", "version"]


class Help(unittest.TestCase):
    def test_overview_lists_every_command(self):
        for flag in ("--help", "-h", "help"):
            answer = nibble.run(flag)
            self.assertEqual(answer.code, 0, answer)
            for command in COMMANDS:
                self.assertRegex(answer.out, rf"(?m)^  {command} ")
            self.assertIn("Exit codes", answer.out)

    def test_every_command_has_help_with_examples_and_the_common_options(self):
        for command in COMMANDS:
            answer = nibble.run(*command.split(), "--help")
            self.assertEqual(answer.code, 0, answer)
            self.assertEqual(answer.err, "")
            self.assertIn("Examples:", answer.out)
            self.assertIn(f"nibble {command} ", answer.out + " ")
            for option in ("--json", "--device", "--threads", "--progress", "--options"):
                self.assertIn(option, answer.out, command)

    def test_other_ways_to_ask(self):
        self.assertEqual(nibble.run("help", "bench", "decode").out, nibble.run("bench", "decode", "--help").out)
        self.assertEqual(nibble.run("bench", "--help").out, nibble.run("--help").out)


class Version(unittest.TestCase):
    def test_text(self):
        for word in ("version", "--version"):
            answer = nibble.run(word)
            self.assertEqual(answer.code, 0, answer)
            self.assertRegex(answer.out, r"^nibble \d+\.\d+\.\d+ \(.*\)\n$")

    def test_json(self):
        info = nibble.run("version", "--json").json
        self.assertEqual(sorted(info), ["build_type", "commit", "compiler", "cuda", "version"])


class Mistakes(unittest.TestCase):
    def expect(self, code, words, *args, **kwargs):
        answer = nibble.run(*args, **kwargs)
        self.assertEqual(answer.code, code, answer)
        self.assertEqual(answer.out, "")
        self.assertTrue(answer.err.startswith("error: "), answer)
        self.assertEqual(answer.err.count("\n"), 1, answer)
        for word in words:
            self.assertIn(word, answer.err)

    def test_no_command(self):
        self.expect(2, ["no command", "--help"])

    def test_unknown_command(self):
        self.expect(2, ["tokenise", "did you mean tokenize?"], "tokenise")
        self.expect(2, ["decode, prefill, load"], "bench")
        self.expect(2, ["ppl"], "eval", "perplexity")

    def test_unknown_option(self):
        self.expect(2, ["--max-token ", "did you mean --max-tokens?"], "run", nibble.NOTHING_HERE, "--max-token", "3")
        self.expect(2, ["--zzzzzzzzzz"], "inspect", nibble.NOTHING_HERE, "--zzzzzzzzzz")

    def test_extra_argument(self):
        self.expect(2, ["unexpected argument \"more\""], "inspect", nibble.NOTHING_HERE, "more")

    def test_missing_value(self):
        self.expect(2, ["--threads"], "inspect", nibble.NOTHING_HERE, "--threads")

    def test_no_model(self):
        for command in ("tokenize", "inspect", "plan", "bench decode", "bench prefill", "bench load"):
            self.expect(2, ["no model given"], *command.split())
        self.expect(2, ["no model given"], "run", "-p", "x")

    def test_missing_directory(self):
        where = str(nibble.NOTHING_HERE)
        self.expect(2, ["no-such-directory"], "inspect", where)
        self.expect(2, ["no-such-directory"], "plan", where)
        self.expect(2, ["no-such-directory"], "tokenize", where)
        self.expect(2, ["no-such-directory"], "run", where, "-p", "x")
        self.expect(2, ["no-such-directory"], "run", where, "--prompt-tokens", "1")
        self.expect(2, ["no-such-directory"], "bench", "load", where)

    def test_values_out_of_range(self):
        for option, value in (("--max-tokens", "0"), ("--max-tokens", "abc"), ("--max-tokens", "99999999999"),
                              ("--temperature", "-1"), ("--temperature", "nan"), ("--temperature", "inf"),
                              ("--top-p", "0"), ("--top-p", "1.5"), ("--min-p", "2"), ("--top-k", "-1"),
                              ("--seed", "-1"), ("--seed", "1.5"), ("--presence-penalty", "3"),
                              ("--frequency-penalty", "-2.5"), ("--repetition-penalty", "0"), ("--threads", "0"),
                              ("--device", "gpu"), ("--progress", "maybe"), ("--mla", "both"),
                              ("--prompt-tokens", "1,x"), ("--prompt-tokens", "-1"), ("--prompt-tokens", ""),
                              ("--prompt-tokens", "99999999999"), ("--stop", ""), ("--stop", "x" * 257)):
            with self.subTest(option=option, value=value):
                args = ["run", nibble.NOTHING_HERE, option, value]
                if option != "--prompt-tokens":
                    args += ["-p", "x"]
                self.expect(2, [option], *args)

    def test_contradictions(self):
        here = nibble.NOTHING_HERE
        self.expect(2, ["--prompt"], "run", here, "-p", "x", "--prompt-tokens", "1")
        self.expect(2, ["--raw"], "run", here, "-p", "x", "--raw", "--chat")
        self.expect(2, ["--thinking"], "run", here, "-p", "x", "--thinking", "--no-thinking")
        self.expect(2, ["--chat-format", "deepseek-v3"], "run", here, "-p", "x", "--chat-format", "llama")
        self.expect(2, ["config"], "run", here, "-p", "x", "--config", "config.json")

    def test_an_unwritable_result_is_a_failure(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([nibble.BINARY, "version"], stdout=full, stderr=subprocess.PIPE,
                                  env=nibble.environment(), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"standard output", done.stderr)

    def test_a_closed_pipe_ends_quietly(self):
        child = subprocess.Popen([nibble.BINARY, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 env=nibble.environment())
        child.stdout.close()
        err = child.stderr.read()
        self.assertIn(child.wait(), (0, 1))
        self.assertEqual(err, b"")
        child.stderr.close()


class OptionSources(unittest.TestCase):
    """--threads of `version` stands for any option: its value is checked wherever it comes from."""

    def test_environment(self):
        self.assertIn("\"version\"", nibble.run("version", env={"NIBBLE_JSON": "1"}).out)
        self.assertNotIn("\"version\"", nibble.run("version", env={"NIBBLE_JSON": "0"}).out)
        wrong = nibble.run("version", env={"NIBBLE_THREADS": "none"})
        self.assertEqual(wrong.code, 2)
        self.assertIn("NIBBLE_THREADS", wrong.err)

    def test_command_line_wins_over_environment(self):
        answer = nibble.run("version", "--threads", "2", env={"NIBBLE_THREADS": "none"})
        self.assertEqual(answer.code, 0, answer)

    def test_other_commands_variables_are_ignored(self):
        self.assertEqual(nibble.run("version", env={"NIBBLE_MAX_TOKENS": "none"}).code, 0)

    def test_file(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "options"

            def with_file(text, *args, env=None):
                file.write_text(text)
                return nibble.run("version", "--options", file, *args, env=env)

            self.assertEqual(json.loads(with_file("# all JSON\njson = true\n").out)["cuda"] in (True, False), True)
            self.assertEqual(with_file("max-tokens = 5\nthreads = \"2\"\n").code, 0, "keys of other commands pass")
            self.assertEqual(with_file("[run]\nthreads = none\n[version]\njson = yes\n").json["version"][0], "0")
            wrong = with_file("\nthreads = none\n")
            self.assertEqual(wrong.code, 2)
            self.assertIn("line 2", wrong.err)
            self.assertEqual(with_file("threads = none\n", "--threads", "3").code, 0, "the command line wins")
            self.assertEqual(with_file("threads = none\n", env={"NIBBLE_THREADS": "3"}).code, 0, "then the environment")
            unknown = with_file("thread = 2\n")
            self.assertEqual(unknown.code, 2)
            self.assertIn("did you mean threads?", unknown.err)
            self.assertEqual(with_file("threads\n").code, 2)

    def test_missing_file(self):
        answer = nibble.run("version", "--options", nibble.NOTHING_HERE)
        self.assertEqual(answer.code, 2)
        self.assertIn("no-such-directory", answer.err)

    def test_last_value_wins(self):
        self.assertEqual(nibble.run("version", "--threads", "1", "--threads", "2").code, 0)


class Doctor(unittest.TestCase):
    def test_json(self):
        answer = nibble.run("doctor", "--json")
        self.assertEqual(answer.code, 0, answer)
        info = answer.json
        self.assertIn("scalar", info["isas"])
        self.assertGreater(info["limits"]["read_gb_s"], 0)
        self.assertGreater(info["limits"]["fp32_gflops"], 0)
        for check in info["checks"]:
            self.assertTrue(check["ok"] or check["hint"], check)

    def test_text(self):
        answer = nibble.run("doctor")
        self.assertEqual(answer.code, 0, answer)
        self.assertIn("huge pages", answer.out)


if __name__ == "__main__":
    unittest.main()
