package recipes_test

import (
	"os"
	"strings"
	"testing"
)

func TestLogging(t *testing.T) {
	t.Parallel()
	need(t, "jq", "/usr/bin/jq")
	p := load(t, "logging.md")
	for _, prefix := range []string{"", "Nov 25 01:28:08 host onewake[123]: "} { // of daemon -o, and of syslogd
		m := newMachine(t)
		m.follow(p.only("JSON"))
		program := m.write("/usr/local/bin/program", `#!/bin/sh
case $PATH_INFO in
/fail) echo "${QUERY_STRING#n=} complaint" >&2; exit 1;;
/slow) sleep 0.3;;
esac
`, 0o755)
		s := m.service("onewake", `onewake_flags="$onewake_flags -script-name /x"`, "onewake_command="+program)
		socket := m.here("/var/run/onewake/onewake.sock")
		for _, target := range []string{"/x/fail?n=first", "/x/slow", "/y", "/x/", "/x/fail?n=second", `/x/"status":500,"status":503`} {
			ask(t, socket, "GET", target, "", "X-Real-IP: 192.0.2.1")
		}
		s.stop()
		b, err := os.ReadFile(s.log)
		if err != nil {
			t.Fatal(err)
		}
		log := prefix + "onewake: a line of text\n"
		for line := range strings.Lines(string(b)) {
			log += prefix + line
		}
		m.write("/var/log/onewake.log", log, 0o644)
		m.replace = append(m.replace, "/fail?n=", "/x/fail?n=", "…/slow", "…/x/slow")
		m.console(p)
	}
}

// What the page says of the service script is so.
func TestLoggingService(t *testing.T) {
	t.Parallel()
	p := load(t, "logging.md")
	for _, tt := range []struct{ name, head, service, want string }{
		{"default", "", "onewake", "-T onewake -l daemon -s info"},
		{"syslog", "syslog", "onewake", "-T onewake -l local3 -s info"},
		{"instance", "", "onewake_git", "-T onewake_git -l daemon -s info"},
		{"file", "A file", "onewake", "-H -o /var/log/onewake.log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.follow(p.only(tt.head))
			m.service(tt.service)
			if got := strings.ReplaceAll(strings.Join(m.daemon, " "), m.root, ""); !strings.Contains(got, " "+tt.want+" ") {
				t.Errorf("daemon %s, want %s", got, tt.want)
			}
		})
	}
	for _, b := range p.only("syslog").blocks {
		if b.lang == "newsyslog" && strings.Contains(b.text, ".pid") {
			t.Error("syslogd is not signalled")
		}
	}
}
