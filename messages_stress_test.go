//go:build stress && (freebsd || linux)

package main

import (
	"os"
	"testing"
)

// What is guessed about a command beyond whether it can be executed.

var guesses = []mistake{
	{name: "env does not find", setup: file("x", "#!/usr/bin/env no-such\n", 0o755), args: []string{"-env", "PATH=/a:/b", "$D/x"}, status: 78,
		stderr: []string{`command "$D/x": its #! has env look for no-such, which is not in PATH=/a:/b (to mend: install it there, or -env PATH=...)`}},
	{name: "env would find elsewhere", path: "$D", setup: file("no-such", "#!/usr/bin/env -S no-such -u\n", 0o755), args: []string{"$D/no-such"}, status: 78,
		stderr: []string{`command "$D/no-such": its #! has env look for no-such, which is not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin` +
			` (to mend: #!$D/no-such, or -env PATH=$D:/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin)`}},
	{name: "env with two words", setup: file("x", "#!/usr/bin/env sh -e\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": its #! has env look for a program called "sh -e", use env -S sh -e`}},
}

func TestMessageGuesses(t *testing.T) {
	t.Chdir("/")
	for _, m := range guesses {
		t.Run(m.name, func(t *testing.T) { m.test(t, newDir(t), "") })
	}
	dir := newDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	other[18] ^= 0xff // e_machine
	file("other", string(other[:4096]), 0o755)(t, dir)
	file("binary", "\xfe\xed\x00", 0o755)(t, dir)
	file("good", "#!/usr/bin/env -S FOO=bar no-such\n", 0o755)(t, dir)
	for _, n := range []note{
		{args: []string{"/bin/sh", "-timeout", "5s"}, want: "-timeout: behind the command, and so given to it (if that is meant, put -- before the command)\n"},
		{args: []string{"--", "/bin/sh", "-timeout", "5s"}},
		{args: []string{"/bin/sh", "-c", "x", "timeout", "--", "-cgi"}},
		{args: []string{dir + "/other"}, want: `command "` + dir + `/other": a program for another kind of machine than onewake, this system may not execute it` + "\n"},
		{args: []string{dir + "/binary"}, want: `command "` + dir + `/binary": neither ELF nor a script, this system may not execute it` + "\n"},
		{args: []string{dir + "/good"}},
	} {
		n.test(t)
	}
}
