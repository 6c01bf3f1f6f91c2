//go:build interop

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestInteropLogging(t *testing.T) {
	t.Parallel()
	need(t, "jq", "apt-get install jq")
	p := readRecipe(t, "logging.md")
	for _, prefix := range []string{"", "Nov 25 01:28:08 host onewake[123]: "} { // of daemon -o, and of syslogd
		m := newMachine(t)
		m.follow(p.only("JSON"))
		program := m.write("/usr/local/bin/program", `#!/bin/sh
case $PATH_INFO in
/fail) echo "${QUERY_STRING#n=} complaint" >&2; exit 1;;
/slow) echo >`+m.root+`/started; read -r line <`+m.root+`/end;;
esac
`, 0o755)
		if err := syscall.Mkfifo(m.root+"/end", 0o600); err != nil {
			t.Fatal(err)
		}
		if m.onewake != nil {
			os.Chown(m.root+"/end", int(m.onewake.Uid), -1)
		}
		l := m.ready("onewake", `onewake_flags="$onewake_flags -script-name /x"`, "onewake_command="+program)
		written := m.write("/var/log/written", "", 0o644)
		log, err := os.OpenFile(written, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		cmd := m.command(m.onewake, append(append(l.before, l.bin), l.args...)...)
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		log.Close()
		addr := "unix:" + m.here("/var/run/onewake/onewake.sock")
		awaitServing(t, addr)
		// This request takes longest: it begins before all others and ends
		// after them.
		slow := dial(t, addr).send("%s", askText("GET", "/x/slow", "", "X-Real-IP: 192.0.2.1"))
		eventually(t, "the slow request is under way", func() bool { _, err := os.Stat(m.root + "/started"); return err == nil })
		for _, target := range []string{"/x/fail?n=first", "/y", "/x/", "/x/fail?n=second", `/x/"status":500,"status":503`} {
			ask(t, addr, "GET", target, "", "X-Real-IP: 192.0.2.1")
		}
		if err := os.WriteFile(m.root+"/end", []byte("end\n"), 0); err != nil {
			t.Fatal(err)
		}
		slow.answer("GET").wantStatus(t, 200)
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		text := prefix + "onewake: a line of text\n"
		for line := range strings.Lines(m.read(written)) {
			text += prefix + line
		}
		m.write("/var/log/onewake.log", text, 0o644)
		m.replace = append(m.replace, "/fail?n=", "/x/fail?n=", "…/slow", "…/x/slow")
		m.console(p)
	}
}

// What the page says about the service script.
func TestInteropLoggingService(t *testing.T) {
	t.Parallel()
	p := readRecipe(t, "logging.md")
	for _, tt := range []struct{ head, service, want string }{
		{"", "onewake", "-T onewake -l daemon -s info"},
		{"syslog", "onewake", "-T onewake -l local3 -s info"},
		{"", "onewake_git", "-T onewake_git -l daemon -s info"},
		{"A file", "onewake", "-H -o /var/log/onewake.log"},
	} {
		m := newMachine(t)
		m.follow(p.only(tt.head))
		words := strings.ReplaceAll(strings.Join(m.rcWords(tt.service), " "), m.root, "")
		if !strings.Contains(words, fmt.Sprint(" ", tt.want, " ")) {
			t.Errorf("%s, %q: no %s in %s", tt.service, tt.head, tt.want, words)
		}
	}
	for _, b := range p.only("syslog").blocks {
		if b.lang == "newsyslog" && strings.Contains(b.text, ".pid") {
			t.Error("no signal to syslogd")
		}
	}
}
