"""`nibble run` and `nibble chat`: results, prompts from everywhere, Ctrl-C, and a chat in a terminal."""

import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import tempfile
import time
import unittest

import nibble_process as nibble

LONG = ["--max-tokens", "100000", "--max-model-len", "120000", "--ignore-eos"]


class Ids(unittest.TestCase):
    """Models without a tokenizer: token ids in, token ids out."""

    def setUp(self):
        self.model = nibble.golden("v2-tiny")
        self.vocab = json.loads((self.model / "config.json").read_text())["vocab_size"]

    def test_json_object(self):
        answer = nibble.run("run", self.model, "--prompt-tokens", "1,2,3", "--max-tokens", "4", "--ignore-eos", "--json")
        self.assertEqual(answer.code, 0, answer)
        got = answer.json
        self.assertEqual(list(got), ["token_ids", "text", "prompt_tokens", "finish_reason", "timings"])
        self.assertEqual(list(got["timings"]), ["load_s", "prefill_tok_s", "decode_tok_s"])
        self.assertEqual(len(got["token_ids"]), 4)
        self.assertEqual((got["text"], got["prompt_tokens"], got["finish_reason"]), ("", 3, "length"))
        self.assertGreater(got["timings"]["load_s"], 0)
        plain = nibble.run("run", self.model, "--prompt-tokens", " 1, 2,3", "--max-tokens", "4", "--ignore-eos")
        self.assertEqual(plain.out, ",".join(map(str, got["token_ids"])) + "\n")

    def test_text_needs_a_tokenizer(self):
        answer = nibble.run("run", self.model, "-p", "Hello")
        self.assertEqual(answer.code, 2, answer)
        self.assertIn("tokenizer.json", answer.err)
        stop = nibble.run("run", self.model, "--prompt-tokens", "1", "--stop", "x")
        self.assertEqual(stop.code, 2, stop)

    def test_ids_out_of_range(self):
        answer = nibble.run("run", self.model, "--prompt-tokens", f"1,{self.vocab}")
        self.assertEqual(answer.code, 2, answer)
        self.assertIn(str(self.vocab), answer.err)

    def test_prompt_longer_than_the_context(self):
        answer = nibble.run("run", self.model, "--prompt-tokens", ",".join(["1"] * 50), "--max-model-len", "40")
        self.assertEqual(answer.code, 2, answer)
        self.assertRegex(answer.err, r"50.*40|40.*50")

    def test_the_context_bounds_the_reply(self):
        answer = nibble.run("run", self.model, "--prompt-tokens", "1,2,3,4", "--max-model-len", "10", "--ignore-eos",
                            "--max-tokens", "100", "--json")
        self.assertEqual(answer.code, 0, answer)
        self.assertEqual(answer.json["finish_reason"], "length")
        self.assertLessEqual(4 + len(answer.json["token_ids"]), 11)

    def test_cuda_is_refused_where_there_is_none(self):
        if json.loads(nibble.run("doctor", "--json").out)["cuda_devices"]:
            self.skipTest("this machine has a CUDA device")
        answer = nibble.run("run", self.model, "--prompt-tokens", "1", "--device", "cuda")
        self.assertEqual(answer.code, 3, answer)

    def test_more_memory_than_there_is(self):
        answer = nibble.run("run", self.model, "--prompt-tokens", "1", "--max-model-len", "2000000000")
        self.assertIn(answer.code, (2, 4), answer)

    def test_json_progress(self):
        answer = nibble.run("run", self.model, "--prompt-tokens", "1", "--max-tokens", "1", "--progress", "json")
        self.assertEqual(answer.code, 0, answer)
        lines = [json.loads(line) for line in answer.err.splitlines()]
        self.assertTrue(lines)
        self.assertEqual(list(lines[0]), ["phase", "done", "total", "unit"])


class WithText(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.model = nibble.text_model(self.folder)
        if self.model is None:
            self.skipTest("no golden tokenizer")

    def start(self, *args, **kwargs):
        return subprocess.Popen([nibble.BINARY, *args], stderr=subprocess.PIPE, env=nibble.environment(), **kwargs)


class Text(WithText):
    def generate(self, *args, **kwargs):
        answer = nibble.run("run", *self.model, "--max-tokens", "24", "--ignore-eos", *args, **kwargs)
        self.assertEqual(answer.code, 0, answer)
        return answer

    def test_streamed_text_is_the_text(self):
        whole = self.generate("-p", "Hello", "--json").json
        self.assertEqual(len(whole["token_ids"]), 24)
        self.assertEqual(self.generate("-p", "Hello").out, whole["text"].rstrip("\n") + "\n")
        decoded = nibble.run("tokenize", self.model[0],
                             stdin=json.dumps({"ids": whole["token_ids"], "skip_special_tokens": True}))
        self.assertEqual(decoded.json["text"], whole["text"])

    def test_prompts_from_everywhere_are_the_same(self):
        want = self.generate("-p", "two\nlines").out
        file = self.folder / "prompt.txt"
        file.write_text("two\nlines\n")
        self.assertEqual(self.generate("--prompt-file", file).out, want)
        self.assertEqual(self.generate("--prompt-file", "-", stdin="two\nlines\n").out, want)
        self.assertEqual(self.generate(stdin="two\nlines\n").out, want)
        self.assertEqual(self.generate(env={"NIBBLE_PROMPT": "two\nlines"}).out, want)
        (ids,) = [json.loads(nibble.run("tokenize", self.model[0], stdin='{"text": "two\\nlines"}').out)["ids"]]
        bos = json.loads(nibble.run("tokenize", self.model[0], stdin='{"text": "<\uff5cbegin\u2581of\u2581sentence\uff5c>"}').out)["ids"]
        from_ids = [self.generate("--prompt-tokens", ",".join(map(str, prompt))).out for prompt in (ids, bos + ids)]
        self.assertIn(want, from_ids)

    def test_odd_prompts_are_taken_as_they_are(self):
        for prompt in ("[a,b]", "-5", "--", "{}", "=", "\"quoted\"", "a" * 1000, "\u00e9\U0001F600"):
            with self.subTest(prompt=prompt[:10]):
                got = self.generate("-p", prompt, "--json").json
                self.assertGreater(got["prompt_tokens"], 0)
        self.generate(stdin=b"a\x00b")

    def test_seeds(self):
        one = self.generate("-p", "Hello", "--temperature", "1", "--seed", "7").out
        self.assertEqual(self.generate("-p", "Hello", "--temperature", "1", "--seed", "7").out, one)
        others = {self.generate("-p", "Hello", "--temperature", "1", "--seed", str(seed)).out for seed in range(8, 12)}
        self.assertNotEqual(others, {one})

    def test_top_k_one_is_greedy(self):
        greedy = self.generate("-p", "Hello").out
        self.assertEqual(self.generate("-p", "Hello", "--temperature", "1", "--top-k", "1").out, greedy)
        self.assertEqual(self.generate("-p", "Hello", "--temperature", "1", "--top-p", "0.000001").out, greedy)

    def test_repetition_penalty_changes_the_text(self):
        first = self.generate("-p", "Hello", "--json").json["token_ids"]
        second = self.generate("-p", "Hello", "--presence-penalty", "2", "--frequency-penalty", "2", "--json").json
        if len(set(first)) < len(first):
            self.assertNotEqual(second["token_ids"], first)

    def test_stop_text(self):
        text = self.generate("-p", "Hello", "--json").json["text"]
        stop = text[8:11]
        got = self.generate("-p", "Hello", "--stop", "\u20ac\u20ac", "--stop", stop, "--json").json
        self.assertEqual(got["finish_reason"], "stop")
        self.assertEqual(got["text"], text[:text.index(stop)])

    def test_chat_renders_the_messages(self):
        raw = self.generate("-p", "Hi", "--raw", "--json").json
        chat = self.generate("-p", "Hi", "--chat-format", "deepseek-v3", "--system", "Be brief.", "--json").json
        messages = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
                    "add_generation_prompt": True}
        rendered = nibble.run("tokenize", self.model[0], "--chat-format", "deepseek-v3", stdin=json.dumps(messages))
        self.assertEqual(chat["prompt_tokens"], len(rendered.json["ids"]))
        self.assertLess(raw["prompt_tokens"], chat["prompt_tokens"])

    def test_bad_prompts(self):
        def refused(words, *args, **kwargs):
            answer = nibble.run("run", *self.model, *args, **kwargs)
            self.assertEqual(answer.code, 2, answer)
            self.assertEqual(answer.out, "")
            for word in words:
                self.assertIn(word, answer.err)

        refused(["empty"], "-p", "")
        refused(["empty"], "--prompt=")
        refused(["empty"], stdin="")
        refused(["empty"], stdin="\n")
        refused(["UTF-8"], stdin=b"ab\xff\xfe")
        refused(["UTF-8"], stdin=b"\xed\xa0\x80")
        refused(["20"], "-p", "word " * 100, "--max-model-len", "20")
        refused(["no-such-directory"], "--prompt-file", nibble.NOTHING_HERE)
        refused(["directory"], "--prompt-file", self.folder)

    def test_model_with_a_smaller_vocabulary_than_its_tokenizer(self):
        config = json.loads((self.folder / "config.json").read_text())
        config["vocab_size"] = 128
        (self.folder / "config.json").write_text(json.dumps(config))
        answer = nibble.run("run", *self.model, "-p", "\u00e9t\u00e9 Hello")
        self.assertEqual(answer.code, 2, answer)


class Interrupt(WithText):
    def finish(self, child):
        out, err = child.communicate(timeout=60)
        return child.returncode, out, err.decode()

    def test_ctrl_c_ends_a_run_and_keeps_what_there_is(self):
        child = self.start("run", *self.model, "-p", "Hello", *LONG, stdout=subprocess.PIPE)
        begun = os.read(child.stdout.fileno(), 1)
        child.send_signal(signal.SIGINT)
        code, rest, err = self.finish(child)
        self.assertEqual(code, 130, err)
        self.assertTrue(begun)
        self.assertTrue(rest.endswith(b"\n"))
        self.assertEqual(err, "")
        (begun + rest).decode()

    def test_ctrl_c_with_json(self):
        child = self.start("run", *self.model, "-p", "Hello", *LONG, "--json", stdout=subprocess.PIPE)
        time.sleep(2)
        child.send_signal(signal.SIGINT)
        code, out, _ = self.finish(child)
        self.assertEqual(code, 130)
        if out:  # a busy machine may still have been loading
            self.assertEqual(json.loads(out)["finish_reason"], "cancelled")

    def test_a_reader_that_leaves_ends_the_run_quietly(self):
        child = self.start("run", *self.model, "-p", "Hello", *LONG, stdout=subprocess.PIPE)
        os.read(child.stdout.fileno(), 1)
        child.stdout.close()
        err = child.stderr.read()
        self.assertEqual(child.wait(timeout=60), 1)
        self.assertEqual(err, b"")
        child.stderr.close()

    def test_ctrl_c_while_waiting_for_input(self):
        child = self.start("tokenize", self.model[0], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdin.write(b'{"text": "a"}\n')
        child.stdin.flush()
        self.assertTrue(os.read(child.stdout.fileno(), 100))
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(timeout=60), 130)
        child.communicate()


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(nibble.BINARY, [nibble.BINARY, *args], nibble.environment({"TERM": "xterm", "LC_ALL": "C"}))
        self.seen = ""

    def wait_for(self, text, timeout=60):
        """What came up to and with `text`; it is not looked at again."""
        end = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            try:
                data = os.read(self.fd, 65536) if ready else b""
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"waited for {text!r}, saw {self.seen!r}")
            self.seen += data.decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text):
        os.write(self.fd, text.encode())

    def leave(self):
        """Ctrl-D, once the prompt is up: before, it would end a line of the terminal's own."""
        self.wait_for("> ")
        self.type("\x04")

    def exit_code(self, timeout=60):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                if select.select([self.fd], [], [], 0.05)[0]:
                    os.read(self.fd, 65536)
            except OSError:
                pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"did not end; saw {self.seen!r}")


class Chat(WithText):
    def chat(self, *args):
        terminal = Terminal("chat", *self.model, "--chat-format", "deepseek-v3", *args)
        terminal.wait_for("> ")
        return terminal

    def test_conversation_commands_and_exit(self):
        terminal = self.chat("--max-tokens", "5", "--ignore-eos")
        terminal.type("Hello\r")
        first = terminal.wait_for("5 tokens at")
        self.assertRegex(first, r"\[\d+ prompt tokens")
        terminal.type("And now?\r")
        second = terminal.wait_for("5 tokens at")
        terminal.type("/help\r")
        terminal.wait_for("forget the conversation")
        terminal.type("/nonsense\r")
        terminal.wait_for("unknown command /nonsense")
        terminal.type("/reset\r")
        terminal.wait_for("is forgotten")
        terminal.type("Hello\r")
        third = terminal.wait_for("5 tokens at")
        count = [int(text.split(" prompt tokens")[0].rsplit("[", 1)[1]) for text in (first, second, third)]
        self.assertGreater(count[1], count[0], "the conversation grows")
        self.assertEqual(count[2], count[0], "until it is forgotten")
        terminal.type("/exit\r")
        self.assertEqual(terminal.exit_code(), 0)

    def test_letters_beyond_ascii_can_be_typed(self):
        text = "\u00e9t\u00e9 \u4f60\u597d"
        want = nibble.run("run", *self.model, "--chat-format", "deepseek-v3", "-p", text, "--max-tokens", "3", "--json")
        terminal = self.chat("--max-tokens", "3")
        terminal.type(text + "\r")
        self.assertIn(f"[{want.json['prompt_tokens']} prompt tokens", terminal.wait_for("tokens at"))
        terminal.leave()
        self.assertEqual(terminal.exit_code(), 0)

    def test_ctrl_c_stops_the_reply_not_the_program(self):
        terminal = self.chat(*LONG)
        terminal.type("Hello\r")
        time.sleep(1)
        terminal.type("\x03")
        terminal.wait_for("cancelled]")
        terminal.type("/help\r")
        terminal.wait_for("Ctrl-C stops a reply")
        terminal.leave()
        self.assertEqual(terminal.exit_code(), 0)

    def test_ctrl_c_twice_at_an_empty_prompt_leaves(self):
        terminal = self.chat()
        terminal.type("\x03")
        terminal.wait_for("again")
        terminal.wait_for("> ")
        terminal.type("\x03")
        self.assertEqual(terminal.exit_code(), 130)

    def test_ctrl_c_drops_what_was_typed(self):
        terminal = self.chat("--max-tokens", "3", "--ignore-eos")
        terminal.type("some words")
        terminal.wait_for("words")
        terminal.type("\x03")
        terminal.wait_for("> ")
        terminal.type("/help\r")
        terminal.wait_for("forget the conversation")
        terminal.leave()
        self.assertEqual(terminal.exit_code(), 0)

    def test_run_without_a_prompt_is_a_chat(self):
        terminal = Terminal("run", *self.model, "--max-tokens", "3")
        terminal.wait_for("/help lists commands")
        terminal.leave()
        self.assertEqual(terminal.exit_code(), 0)

    def test_a_mistake_does_not_end_the_chat(self):
        terminal = self.chat("--max-model-len", "30", "--max-tokens", "3")
        terminal.type("word " * 60 + "\r")
        terminal.wait_for("error: ")
        terminal.type("Hi\r")
        terminal.wait_for("tokens at")
        terminal.leave()
        self.assertEqual(terminal.exit_code(), 0)

    def test_messages_from_a_pipe(self):
        answer = nibble.run("chat", *self.model, "--chat-format", "deepseek-v3", "--max-tokens", "4", "--ignore-eos",
                            stdin="Hello\n\n/reset\nHello\n")
        self.assertEqual(answer.code, 0, answer)
        lines = answer.out.rstrip("\n")
        self.assertEqual(len(lines) % 2, 1)
        half = len(lines) // 2
        self.assertEqual(lines[:half], lines[half + 1:], "the same question after /reset has the same answer")

    def test_chat_and_json(self):
        answer = nibble.run("chat", *self.model, "--json")
        self.assertEqual(answer.code, 2, answer)


if __name__ == "__main__":
    unittest.main()
