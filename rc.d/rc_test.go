//go:build linux

// Package rcd_test runs the service script under dash, with stand-ins for
// rc.subr(8), daemon(8) and the other programs of FreeBSD that it uses, once as
// they are in 13.2 and once as they are in 15.1. Processes, signals, sockets and
// pidfiles are real.
//
// testdata/rc.subr can be compared with the original:
//
//	RCSUBR_13=/path/to/13.2/rc.subr RCSUBR_15=/path/to/15.1/rc.subr go test ./rc.d
package rcd_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestEnableIsAll(t *testing.T) {
	both(t, func(b *box) {
		if out, _ := b.service("start"); !strings.Contains(out, "Set onewake_enable to") || len(b.calls("daemon")) > 0 {
			b.Errorf("start of a service that is off: %s", out)
		}
		b.conf("onewake_enable=YES")
		b.refused("status", "onewake is not running.")
		b.refused("stop", "onewake not running? (check ROOT/var/run/onewake.pid).")
		if out := b.must("start"); !strings.Contains(out, "Starting onewake.") || strings.Contains(out, "WARNING") {
			b.Errorf("start says:\n%s", out)
		}
		b.same("install", b.lastCall("install").Args, "-d", "-o", "onewake", "-g", "www", "-m", "0750", "ROOT/var/run/onewake")
		b.same("daemon", b.lastCall("daemon").Args,
			"-f", "-t", "onewake", "-P", "ROOT/var/run/onewake.daemon.pid", "-p", "ROOT/var/run/onewake.pid",
			"-T", "onewake", "-l", "daemon", "-s", "info",
			"ROOT/usr/sbin/chroot", "-u", "onewake", "-g", "1001", "-G", "1001,2001", "/",
			"ROOT/usr/local/sbin/onewake", "-listen", "unix:ROOT/var/run/onewake/onewake.sock")
		monitor := b.started()
		b.same("onewake", monitor.Args, "-listen", "unix:ROOT/var/run/onewake/onewake.sock")
		b.same("-check", b.checked(), monitor.Args...)
		if b.pid("onewake.pid") != monitor.Pid || !alive(monitor.Pid) {
			b.Errorf("pidfile has %d, the monitor is %d", b.pid("onewake.pid"), monitor.Pid)
		}
		if c, err := net.Dial("unix", b.path("var/run/onewake/onewake.sock")); err != nil {
			b.Errorf("start has returned, but %v", err)
		} else {
			c.Close()
		}
		if out := b.must("status"); out != fmt.Sprintf("onewake is running as pid %d.\n", monitor.Pid) {
			b.Errorf("status says %q", out)
		}
		b.refused("start", "already running")
		daemon := b.pid("onewake.daemon.pid")
		if out := b.must("stop"); strings.Contains(out, "WARNING") {
			b.Errorf("stop says:\n%s", out)
		}
		b.gone("onewake", monitor.Pid)
		b.daemonEnds(daemon)
		b.same("signals", b.signals(), "terminated")
		b.refused("status", "onewake is not running.")
		log := read(b, b.path("var/log/syslog"))
		if !strings.HasPrefix(log, "onewake daemon.info: msg=start") || !strings.Contains(log, "msg=stopped") {
			b.Errorf("log:\n%s", log)
		}
	})
}

// Each value is what rc.conf's shell has made of it.
var words = []struct {
	name, value string
	want        []string
}{
	{"plain", `/bin/a b c`, []string{"/bin/a", "b", "c"}},
	{"blanks", " /bin/a\tb\n\n  c ", []string{"/bin/a", "b", "c"}},
	{"the header's example", `/usr/local/bin/foo "two words" $x`, []string{"/usr/local/bin/foo", "two words", "$x"}},
	{"single quotes", `/bin/a 'b  c' d'e'f '"' '\'`, []string{"/bin/a", "b  c", "def", `"`, `\`}},
	{"double quotes", `/bin/a "b  c" d"e"f "'" "\\" "\"" "\n" "\$x" "\` + "`" + `"`, []string{"/bin/a", "b  c", "def", "'", `\`, `"`, `\n`, "$x", "`"}},
	{"backslashes", `/bin/a b\ c \' \" \\ \n \$x \*`, []string{"/bin/a", "b c", "'", `"`, `\`, "n", "$x", "*"}},
	{"empty words", `/bin/a '' "" b''`, []string{"/bin/a", "", "", "b"}},
	{"expansions", `/bin/a $HOME ${HOME} "$HOME" $(id) ` + "`id`" + ` $((1+1)) ~ ~root`, []string{"/bin/a", "$HOME", "${HOME}", "$HOME", "$(id)", "`id`", "$((1+1))", "~", "~root"}},
	{"globs", `/bin/a * /* [a-z]* ? {a,b}`, []string{"/bin/a", "*", "/*", "[a-z]*", "?", "{a,b}"}},
	{"operators", `/bin/a ; & | < > ( ) && ! # b`, []string{"/bin/a", ";", "&", "|", "<", ">", "(", ")", "&&", "!", "#", "b"}},
	{"newlines", "/bin/a 'b\nc' \"d\ne\" f\\\ng \"h\\\ni\"", []string{"/bin/a", "b\nc", "d\ne", "fg", "hi"}},
	{"a script", `/bin/sh -c 'echo "it'\''s $1" && exit 3' sh "a b"`, []string{"/bin/sh", "-c", `echo "it's $1" && exit 3`, "sh", "a b"}},
	{"flags", `/bin/a -n -- -x`, []string{"/bin/a", "-n", "--", "-x"}},
	{"a flag first", `-a b`, []string{"-a", "b"}},
	{"bytes", "/bin/a \xff'\xe4 \xfc' grün\\ß \x81\x88", []string{"/bin/a", "\xff\xe4 \xfc", "grünß", "\x81\x88"}},
	{"percent and equals", `/bin/a %s A=b -x=y %%PREFIX`, []string{"/bin/a", "%s", "A=b", "-x=y", "%%PREFIX"}},
	{"carriage return and form feed", "/bin/a b\rc d\fe", []string{"/bin/a", "b\rc", "d\fe"}},
	{"only blanks", " \t\n", nil},
}

func TestWords(t *testing.T) {
	both(t, func(b *box) {
		// All at once through the whole chain, by start; each alone, by
		// configtest.
		var all string
		var wantAll []string
		for _, w := range words {
			all += w.value + " "
			wantAll = append(wantAll, w.want...)
		}
		for _, nice := range []string{"", "onewake_nice=3"} { // rc.subr adds quotes for its own
			b.conf("onewake_enable=YES", "onewake_command="+shellQuote(all), nice)
			b.must("start")
			b.same("started", b.started().Args, append([]string{"-listen", "unix:ROOT/var/run/onewake/onewake.sock", "--"}, wantAll...)...)
			b.must("stop")
		}
		for _, w := range words {
			b.conf("onewake_enable=YES", "onewake_command="+shellQuote(w.value))
			b.must("configtest")
			want := []string{"-listen", "unix:ROOT/var/run/onewake/onewake.sock"}
			if w.want != nil {
				want = append(append(want, "--"), w.want...)
			}
			b.same(w.name, b.checked(), want...)
		}
	})
}

func TestBrokenWords(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES")
		b.must("start")
		monitor := b.started()
		for _, v := range []string{"listen", "env", "flags", "command"} {
			for value, want := range map[string]string{
				`a 'b`: "a single quote is not closed", `a "b`: "a double quote is not closed",
				`a "b\"`: "a double quote is not closed", `a b\`: "nothing follows the last backslash",
			} {
				b.conf("onewake_enable=YES", "onewake_"+v+"="+shellQuote(value))
				b.refused("restart", "onewake_"+v+": "+want)
			}
		}
		b.refused("reload", "onewake_command")
		b.refused("configtest", "onewake_command")
		b.must("status")
		b.same("signals", b.signals())
		b.must("stop")
		b.gone("onewake", monitor.Pid)
		b.refused("start", "onewake_command")
		b.refused("forcestart", "onewake_command")
		if len(b.calls("supervisor")) > 1+len(b.calls("daemon")) || b.started().Pid != monitor.Pid {
			b.Error("half a command line was run")
		}
	})
}

func TestVariables(t *testing.T) {
	listen := []string{"-listen", "unix:ROOT/var/run/onewake/onewake.sock"}
	both(t, func(b *box) {
		for _, test := range []struct {
			conf string
			want []string
		}{
			{`onewake_listen="unix:/a/b.sock tcp4:127.0.0.1:80 'unix:/c d.sock'"`,
				[]string{"-listen", "unix:/a/b.sock", "-listen", "tcp4:127.0.0.1:80", "-listen", "unix:/c d.sock"}},
			{"onewake_socket_mode=0600", append(listen, "-socket-mode", "0600")},
			{"onewake_socket_group=gitgroup", append(listen, "-socket-group", "gitgroup")},
			{`onewake_allow="www, :staff's"`, append(listen, "-allow", "www, :staff's")},
			{"onewake_cgi=YES", append(listen, "-cgi")},
			{"onewake_cgi=no", listen},
			{`onewake_dir='/srv/a $b "c"'`, append(listen, "-dir", `/srv/a $b "c"`)},
			{`onewake_chdir='/srv/a'`, append(listen, "-dir", `/srv/a`)},
			{`onewake_chdir=/srv/a onewake_dir=/srv/b`, append(listen, "-dir", `/srv/b`)},
			{`onewake_env='A=1 B="two words" C'`, append(listen, "-env", "A", "-env", "B", "-env", "C")},
			{`onewake_flags='-timeout 5s -content-type "text/html; x"'`, append(listen, "-timeout", "5s", "-content-type", "text/html; x")},
			{`onewake_flags='-cgi=false' onewake_cgi=YES onewake_command=/bin/date`, append(listen, "-cgi", "-cgi=false", "--", "/bin/date")},
			{`onewake_listen="" onewake_command="" onewake_env="" onewake_flags="" onewake_user="" onewake_group="" onewake_cgi=""`, listen},
		} {
			b.conf("onewake_enable=YES", test.conf)
			b.must("configtest")
			b.same(test.conf, b.checked(), slices.Clone(test.want)...)
		}
	})
}

func TestUserGroupProgram(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES", "onewake_user=gitweb onewake_group=gitgroup onewake_groups=5,www", "onewake_program=ROOT/usr/local/sbin/onewake2")
		b.must("start")
		b.same("install", b.lastCall("install").Args, "-d", "-o", "gitweb", "-g", "gitgroup", "-m", "0750", "ROOT/var/run/onewake")
		b.same("chroot", b.lastCall("chroot").Args[:7], "-u", "gitweb", "-g", "1002", "-G", "1002,5,www", "/")
		if n := len(b.calls("onewake2")); n != 2 { // -check and the monitor
			b.Errorf("the other onewake was called %d times", n)
		}
		b.must("status")
		b.must("stop")

		b.conf("onewake_enable=YES onewake_group=nobodys")
		b.refused("start", "nobodys")
		b.conf("onewake_enable=YES onewake_user=onwake")
		b.refused("start", "no user 'onwake'; to make it: pw useradd -n 'onwake' -c 'onewake daemon' -d /nonexistent -s /usr/sbin/nologin")
		b.conf("onewake_enable=YES onewake_program=/nowhere/onewake")
		b.refused("start", "cannot run /nowhere/onewake")
		b.conf("onewake_enable=YES onewake_program='/a b'")
		b.refused("start", "onewake_program: '/a b' is not")
		b.conf("onewake_enable=YES")
		b.env = []string{"NOT_ROOT=1"}
		b.refused("start", "only root can start onewake")
		if n := len(b.calls("supervisor")); n != 1+len(b.calls("daemon"))-1 {
			b.Errorf("%d supervisors", n)
		}
	})
}

// Only the script's own directory is its to make.
func TestOtherDirectory(t *testing.T) {
	both(t, func(b *box) {
		os.Mkdir(b.path("mine"), 0o755)
		b.conf("onewake_enable=YES", "onewake_listen=unix:ROOT/mine/s")
		b.must("start")
		if len(b.calls("install")) > 0 || b.exists("var/run/onewake") {
			b.Error("a directory that nothing lies in was made")
		}
		b.must("stop")
		if b.exists("mine/s") {
			b.Error("the socket is still there")
		}
		b.conf("onewake_enable=YES", "onewake_listen='tcp4:127.0.0.1:1 unix:ROOT/var/run/onewake/a.sock'")
		b.must("start")
		b.must("stop")
		if len(b.calls("install")) != 1 {
			b.Error("the directory was not made")
		}
	})
}

func TestRcSubrVariables(t *testing.T) {
	both(t, func(b *box) {
		b.write("env", "TOKEN='top secret'\nOTHER=x\n")
		b.conf("onewake_enable=YES",
			`onewake_env='A=1 B="it'\''s $two" TOKEN PATH=/x'`,
			"onewake_env_file=ROOT/env",
			"onewake_limits='-n 200' onewake_login_class=staff",
			"onewake_nice=5 onewake_fib=1 onewake_oomprotect=ALL onewake_umask=027",
			"onewake_prepend=prepend")
		b.must("start")
		m := b.started()
		for _, want := range []string{"A=1", "B=it's $two", "TOKEN=top secret", "PATH=/x"} {
			if !slices.Contains(m.Env, want) {
				b.Errorf("the monitor's environment has no %q: %q", want, m.Env)
			}
		}
		b.same("arguments", m.Args, "-listen", "unix:ROOT/var/run/onewake/onewake.sock", "-env", "A", "-env", "B", "-env", "TOKEN", "-env", "PATH")
		if m.Umask != 0o27 || m.Nice != 5 || m.Files != 200 {
			b.Errorf("umask %#o, nice %d, %d files", m.Umask, m.Nice, m.Files)
		}
		b.same("limits", b.lastCall("limits").Args[:4], "-C", "staff", "-n", "200")
		b.same("setfib", b.lastCall("setfib").Args[:2], "-F", "1")
		b.same("protect", b.lastCall("protect").Args, "-d", "-i", "-p", strconv.Itoa(m.Pid))
		var chain []string // what led from the check to the monitor
		for _, c := range b.calls("") {
			if c.Tool != "supervisor" {
				chain = append(chain, c.Tool)
			}
		}
		b.same("chain", chain, "install", "daemon", "limits", "prepend", "setfib", "chroot", "onewake", "run",
			"limits", "prepend", "setfib", "daemon", "chroot", "onewake", "run", "protect")
		for _, c := range b.calls("run") { // the check sees what the monitor will
			if c.Umask != m.Umask || c.Nice != m.Nice || c.Files != m.Files || !slices.Contains(c.Env, "B=it's $two") {
				b.Errorf("the check ran with %+v", c)
			}
		}
		b.must("stop")
		b.gone("onewake", m.Pid)

		for conf, want := range map[string]string{
			"onewake_chroot=/jail":                "onewake_chroot: not supported",
			"onewake_env_file=/nowhere":           "onewake_env_file: cannot read /nowhere",
			"onewake_env='1A=b'":                  "onewake_env: '1A' cannot name a variable",
			"onewake_env='-i'":                    "onewake_env: '-i' cannot name a variable",
			"onewake_env='=b'":                    "onewake_env: '' cannot name a variable",
			`onewake_env="a'b'c-=1"`:              "onewake_env: 'abc-' cannot name a variable",
			"onewake_cgi=maybe":                   "onewake_cgi: 'maybe' is neither YES nor NO",
			"onewake_umask=999":                   "mask",
			"onewake_limits='-n many'":            "limits: invalid",
			"onewake_restart_delay=soon":          "onewake_restart_delay: 'soon' is neither",
			"onewake_restart_delay=-1":            "onewake_restart_delay: '-1' is neither",
			"onewake_restart_delay=99999999999":   "onewake_restart_delay: '99999999999' is neither",
			"onewake_syslog_facility=deamon":      "unrecognized syslog facility",
			"onewake_syslog_priority=loud":        "unrecognized syslog priority",
			"onewake_logfile=/nowhere/onewake.lg": "no such file",
			"onewake_prepend=/nowhere/program":    "/nowhere/program",
		} {
			b.conf("onewake_enable=YES", conf)
			b.refused("start", want)
		}
		if b.started().Pid != m.Pid {
			b.Error("a monitor was started")
		}
	})
}

// _setup is rc.subr's, and new in 15's.
func TestSetup(t *testing.T) {
	b := newBox(t, "15")
	b.conf("onewake_enable=YES", `onewake_setup='echo setting up'`)
	if out := b.must("start"); !strings.Contains(out, "setting up") {
		b.Errorf("start says:\n%s", out)
	}
	b.must("stop")
}

func TestBadConfigurationTakesNothingDown(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES")
		b.must("start")
		m := b.started()
		b.behave("check 78")
		for _, command := range []string{"configtest", "restart", "reload"} {
			b.refused(command, "/nowhere: no such directory")
		}
		b.must("status")
		if !alive(m.Pid) || len(b.signals()) > 0 {
			b.Error("the monitor was touched")
		}
		b.must("stop")
		b.refused("start", "/nowhere: no such directory", "failed precmd routine")
		b.gone("onewake", m.Pid)
		b.behave("check 0")
		if out := b.must("configtest"); !strings.Contains(out, "onewake: check ok\nThe configuration of onewake is good.") {
			b.Errorf("configtest says:\n%s", out)
		}
		if out := b.must("start"); strings.Contains(out, "check ok") {
			b.Errorf("start says:\n%s", out)
		}
		b.must("stop")
	})
}

// What -check could not foresee.
func TestStartFails(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES")
		b.behave("start 69")
		b.refused("start", "onewake has ended at once; its log says why (syslog, facility daemon)")
		b.eventually("pidfiles removed", func() bool { return !b.exists("var/run/onewake.daemon.pid") })
		b.refused("status", "onewake is not running.")
		if !strings.Contains(read(b, b.path("var/log/syslog")), "onewake: address already in use") {
			b.Error("the log does not say why")
		}
		// A slow one is waited for.
		b.behave("slow 400")
		b.must("start")
		if !b.exists("var/run/onewake/onewake.sock") {
			b.Error("start did not wait for the socket")
		}
		// A crash leaves the socket; that is not the next one's.
		syscall.Kill(b.started().Pid, syscall.SIGKILL)
		b.eventually("daemon gone", func() bool { return !b.exists("var/run/onewake.daemon.pid") })
		b.refused("status")
		// Longer than start takes from one look to the next, and far shorter
		// than the half second that it takes for having stayed.
		b.behave("slow 150, dies 71")
		b.refused("start", "ended at once")
		b.conf("onewake_enable=YES", "onewake_listen=tcp4:127.0.0.1:1")
		b.refused("start", "ended at once")
		b.conf("onewake_enable=YES")
		b.behave("slow 0")
		b.must("start")
		b.must("stop")
		b.gone("onewake")
	})
}

func TestReloadAndRestart(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES")
		b.refused("reload", "not running?")
		b.must("start")
		first, daemon := b.started(), b.pid("onewake.daemon.pid")
		b.must("reload")
		b.eventually("HUP", func() bool { return len(b.signals()) > 0 })
		if c := b.calls("signal")[0]; c.Args[0] != "hangup" || c.Pid != first.Pid || b.pid("onewake.pid") != first.Pid {
			b.Errorf("%+v instead of HUP to %d", c, first.Pid)
		}
		b.conf("onewake_enable=YES", "onewake_command=/bin/date")
		b.must("restart")
		second := b.started()
		b.same("new arguments", second.Args[2:], "--", "/bin/date")
		b.daemonEnds(daemon)
		if alive(first.Pid) || b.pid("onewake.pid") != second.Pid {
			b.Error("the first one is still there")
		}
		b.same("signals", b.signals(), "hangup", "terminated")
		b.must("stop")
		b.gone("onewake", second.Pid)
		b.must("restart") // of one that does not run is a start
		b.must("stop")
	})
}

// daemon(8) of 13.2 does not wait for the monitor; stop has to.
func TestStopWaitsForDrain(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES")
		b.behave("drain 700")
		b.must("start")
		m := b.started()
		daemon := b.pid("onewake.daemon.pid")
		begin := time.Now()
		b.must("stop")
		if d := time.Since(begin); d < 700*time.Millisecond {
			b.Errorf("stop took %v", d)
		}
		b.gone("onewake", m.Pid)
		b.daemonEnds(daemon)
		b.same("signals", b.signals(), "terminated")
		if !strings.Contains(read(b, b.path("var/log/syslog")), "msg=stopped") {
			b.Error("the end of the log is lost")
		}
	})
}

func TestRestartDelay(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES", "onewake_restart_delay=1")
		b.must("start")
		first, daemon := b.started(), b.pid("onewake.daemon.pid")
		syscall.Kill(first.Pid, syscall.SIGKILL)
		b.eventually("another monitor", func() bool {
			return b.started().Pid != first.Pid && b.pid("onewake.pid") == b.started().Pid
		})
		b.must("status")
		second := b.started()
		b.must("stop")
		b.gone("onewake", second.Pid)
		b.daemonEnds(daemon)
		time.Sleep(1200 * time.Millisecond)
		if b.started().Pid != second.Pid {
			b.Error("stop has not stopped it")
		}

		// In the pause after a crash.
		b.conf("onewake_enable=YES", "onewake_restart_delay=3600")
		b.must("start")
		daemon = b.pid("onewake.daemon.pid")
		syscall.Kill(b.started().Pid, syscall.SIGKILL)
		b.eventually("the pause", func() bool { return !alive(b.started().Pid) })
		time.Sleep(100 * time.Millisecond)
		b.refused("status", "onewake is not running.", fmt.Sprintf("onewake has died; daemon(8), pid %d, is about to start it again.", daemon))
		b.refused("start", "is about to start onewake again; stop it first")
		b.must("restart")
		b.daemonEnds(daemon)
		daemon = b.pid("onewake.daemon.pid")
		syscall.Kill(b.started().Pid, syscall.SIGKILL)
		time.Sleep(100 * time.Millisecond)
		b.must("stop")
		b.daemonEnds(daemon)
		if b.exists("var/run/onewake.daemon.pid") {
			b.Error("stop in the pause leaves daemon(8)'s pidfile")
		}

		// The variable may have been changed meanwhile.
		b.conf("onewake_enable=YES", "onewake_restart_delay=1")
		b.must("start")
		daemon = b.pid("onewake.daemon.pid")
		b.conf("onewake_enable=YES")
		// The file of the one that was killed is there, so that start may
		// have returned before this one serves.
		b.eventually("its socket", func() bool {
			c, err := net.Dial("unix", b.path("var/run/onewake/onewake.sock"))
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		b.must("stop")
		b.gone("onewake", b.started().Pid)
		b.daemonEnds(daemon)
	})
}

// A daemon(8) that was killed leaves a monitor that can still be stopped.
func TestSupervisorKilled(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES")
		b.must("start")
		m := b.started()
		syscall.Kill(b.pid("onewake.daemon.pid"), syscall.SIGKILL)
		b.must("status")
		b.must("stop")
		b.gone("onewake", m.Pid)
	})
}

func TestLogfile(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES", "onewake_logfile='ROOT/var/log/one wake.log'")
		b.must("start")
		d := b.lastCall("daemon").Args
		if i := slices.Index(d, "-o"); i < 0 || d[i+1] != b.path("var/log/one wake.log") || d[i-1] != "-H" || slices.Contains(d, "-T") {
			b.Errorf("daemon %q", d)
		}
		// As newsyslog(8) does with docs/newsyslog.conf.
		os.Rename(b.path("var/log/one wake.log"), b.path("var/log/old"))
		m := b.started().Pid
		syscall.Kill(m, syscall.SIGUSR1) // a line on the way
		b.eventually("that line", func() bool { return strings.Contains(read(b, b.path("var/log/old")), "user defined signal 1") })
		syscall.Kill(b.pid("onewake.daemon.pid"), syscall.SIGHUP)
		b.eventually("new file", func() bool { return b.exists("var/log/one wake.log") })
		b.must("stop")
		if s := read(b, b.path("var/log/one wake.log")); !strings.Contains(s, "msg=stopped") || strings.Contains(s, "msg=start ") {
			b.Errorf("new log:\n%s", s)
		}
		if b.exists("var/log/syslog") {
			b.Error("logged to syslog as well")
		}
		if !strings.Contains(read(b, "../docs/newsyslog.conf"), "/var/run/onewake.daemon.pid") {
			b.Error("docs/newsyslog.conf signals something else")
		}
	})
}

func TestSyslog(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES", "onewake_syslog_tag='my tag' onewake_syslog_facility=local3 onewake_syslog_priority=debug")
		b.must("start")
		b.must("stop")
		if s := read(b, b.path("var/log/syslog")); !strings.HasPrefix(s, "my tag local3.debug: ") {
			b.Errorf("log:\n%s", s)
		}
	})
}

func TestInstances(t *testing.T) {
	both(t, func(b *box) {
		os.Symlink("onewake", b.path("usr/local/etc/rc.d/onewake_git"))
		b.conf("onewake_enable=YES onewake_command=/bin/plain onewake_user=gitweb onewake_cgi=YES onewake_flags=-x onewake_syslog_tag=plain",
			"onewake_git_enable=YES onewake_git_dir=/srv/git")
		b.write("etc/rc.conf.d/onewake_git", "onewake_git_command='/bin/git http'\n")
		b.must("start")
		plain := b.started()
		b.script = "onewake_git"
		if out := b.must("start"); !strings.Contains(out, "Starting onewake_git.") {
			b.Errorf("start says:\n%s", out)
		}
		git := b.started()
		b.same("arguments", git.Args, "-listen", "unix:ROOT/var/run/onewake_git/onewake_git.sock", "-dir", "/srv/git", "--", "/bin/git", "http")
		b.same("daemon", b.lastCall("daemon").Args[:18],
			"-f", "-t", "onewake_git", "-P", "ROOT/var/run/onewake_git.daemon.pid", "-p", "ROOT/var/run/onewake_git.pid",
			"-T", "onewake_git", "-l", "daemon", "-s", "info", "ROOT/usr/sbin/chroot", "-u", "onewake", "-g", "1001")
		b.same("install", b.lastCall("install").Args, "-d", "-o", "onewake", "-g", "www", "-m", "0750", "ROOT/var/run/onewake_git")
		b.must("stop")
		b.gone("onewake_git", git.Pid)
		if !alive(plain.Pid) {
			b.Error("the plain one was stopped as well")
		}
		b.script = "onewake"
		b.must("stop")
		b.gone("onewake", plain.Pid)
	})
}

func TestInstanceNames(t *testing.T) {
	b := newBox(t, "15")
	for _, name := range []string{"onewake-git", "onewake.git", "1wake", "one wake", "onewake;id", "onewake_socket"} {
		os.Symlink("onewake", b.path("usr/local/etc/rc.d/"+name))
		b.script = name
		b.refused("start", "'"+name+"' cannot name a service")
		b.refused("status")
	}
	for _, name := range []string{"gitweb", "onewake_2", "_x"} {
		os.Symlink("onewake", b.path("usr/local/etc/rc.d/"+name))
		b.conf(name + "_enable=YES")
		b.script = name
		b.must("configtest")
	}
}

// At boot, at shutdown and under `service -R` the script is sourced, and $0 is
// another's.
func TestBoot(t *testing.T) {
	both(t, func(b *box) {
		os.Symlink("onewake", b.path("usr/local/etc/rc.d/onewake_git"))
		b.conf("onewake_enable=YES onewake_git_enable=YES onewake_off_enable=NO")
		sourced := func(vars, arg string) string {
			script := ". " + b.path("etc/rc.subr") + "\nload_rc_config\nis_verified() { :; }\n" + vars + "\n"
			for _, s := range []string{"onewake", "onewake_git"} {
				script += "run_rc_script " + b.path("usr/local/etc/rc.d/"+s) + " " + arg + "\n"
			}
			b.write("etc/rc", script+"echo end\n")
			out, status := b.command(b.path("etc/rc"))
			if status != 0 || !strings.HasSuffix(out, "end\n") {
				b.Errorf("%s: status %d\n%s", arg, status, out)
			}
			return out
		}
		sourced("autoboot=yes", "faststart")
		pids := []int{b.pid("onewake.pid"), b.pid("onewake_git.pid")}
		if !alive(pids[0]) || !alive(pids[1]) {
			b.Fatalf("not started: %v", pids)
		}
		sourced("", "faststop")
		b.gone("onewake", pids[0])
		b.gone("onewake_git", pids[1])
		if out := sourced("", "faststop"); out != "end\n" {
			b.Errorf("a second faststop says:\n%s", out)
		}

		// How service(8) -e and -R find the name. With -R, run_rc_script puts
		// each script in turn into rc_service.
		b.write("service", `
rc_service=$0
name=the_service_before
for file in `+b.path("usr/local/etc/rc.d")+`/*; do
	eval `+"`grep ^name= $file`"+`
	eval `+"`grep ^rcvar $file`"+`
	echo "$name $rcvar"
	rc_service=$file
done`)
		if out, _ := b.command(b.path("service")); out != "onewake onewake_enable\nonewake_git onewake_git_enable\n" {
			b.Errorf("service -e finds:\n%s", out)
		}
	})
}

func TestSmallCommands(t *testing.T) {
	both(t, func(b *box) {
		b.conf("onewake_enable=YES")
		for command, want := range map[string]string{
			"rcvar":         `onewake_enable="YES"`,
			"describe":      "One command behind a web server",
			"extracommands": "configtest reload",
			"enabled":       "",
		} {
			if out := b.must(command); !strings.Contains(out, want) {
				b.Errorf("%s says:\n%s", command, out)
			}
		}
		b.refused("juggle", "juggle")
		b.refused("", "configtest")
		b.conf()
		b.refused("enabled")
		b.must("onestart")
		b.must("onestatus")
		b.must("onerestart")
		b.must("stop")
		b.gone("onewake")
	})
}

func TestServiceJail(t *testing.T) {
	t.Run("13", func(t *testing.T) {
		b := newBox(t, "13")
		b.conf("onewake_enable=YES onewake_svcj=YES")
		b.refused("start", "onewake_svcj: this FreeBSD has no service jails")
	})
	t.Run("15", func(t *testing.T) {
		b := newBox(t, "15")
		os.Symlink("onewake", b.path("usr/local/etc/rc.d/onewake_git"))
		b.script = "onewake_git"
		b.conf("onewake_git_enable=YES onewake_git_svcj=YES", `onewake_git_command='/bin/a "b c"'`)
		b.must("start")
		m := b.started()
		b.same("arguments", m.Args[2:], "--", "/bin/a", "b c")
		if j := b.calls("jail")[0]; j.Args[len(j.Args)-1] != "name=svcj-onewake_git" {
			b.Errorf("jail %q", j.Args)
		}
		if n := len(b.calls("install")); n != 1 {
			b.Errorf("the directory was made %d times", n)
		}
		b.must("status")
		b.must("reload")
		b.must("stop")
		b.gone("onewake_git", m.Pid)
		b.refused("stop", "not running?")
		b.must("faststop")
	})
}

func TestShellcheck(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("no shellcheck")
	}
	if out, err := exec.Command("shellcheck", "-s", "sh", "onewake", "../run.sh").CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

// Every variable of the script is in its header and in the manual's table, and
// nothing else is.
func TestVariablesAreDocumented(t *testing.T) {
	t.Parallel()
	script := read(t, "onewake")
	header, body, _ := strings.Cut(script, "\n. /etc/rc.subr\n")
	used := map[string]bool{"enable": true, "env_file": true}
	for _, m := range regexp.MustCompile(`onewake_(?:setting |flag -[a-z-]+ )([a-z_]+)`).FindAllStringSubmatch(body, -1) {
		used[m[1]] = true
	}
	manual := read(t, "../docs/onewake.8")
	for v := range used {
		if !strings.Contains(header, "onewake_"+v) && !strings.Contains(header, "_"+v) {
			t.Errorf("the header says nothing about onewake_%s", v)
		}
		if !strings.Contains(manual, "onewake_"+v) && !strings.Contains(manual, "Va _"+v) {
			t.Errorf("the manual says nothing about onewake_%s", v)
		}
	}
	for _, m := range regexp.MustCompile(`onewake_([a-z_]+) \(`).FindAllStringSubmatch(header, -1) {
		if !used[m[1]] {
			t.Errorf("the header documents onewake_%s, which nothing reads", m[1])
		}
	}
}

// The script's flags are onewake's.
func TestRealOnewake(t *testing.T) {
	if testing.Short() {
		t.Skip("builds onewake")
	}
	t.Parallel()
	b := newBox(t, "15")
	bin := b.path("usr/local/sbin/real")
	if out, err := exec.Command("go", "build", "-o", bin, "..").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	conf := []string{"onewake_enable=YES", "onewake_program=" + bin, "onewake_socket_mode=0600", "onewake_allow=root,nobody," + strconv.Itoa(os.Getuid()),
		"onewake_dir=ROOT/etc", "onewake_env='GREETING=\"two words\"'", "onewake_flags='-timeout 5s -max-procs 2'",
		`onewake_command='/bin/sh -c "pwd; echo \"\$GREETING\""'`}
	b.conf(conf...)
	b.must("configtest")
	b.must("start")
	pid := b.pid("onewake.pid")
	defer syscall.Kill(pid, syscall.SIGKILL)
	get := func() string {
		c, err := net.Dial("unix", b.path("var/run/onewake/onewake.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
		var s bytes.Buffer
		s.ReadFrom(c)
		return s.String()
	}
	want := b.path("etc") + "\ntwo words\n"
	if s := get(); !strings.HasSuffix(s, want) {
		t.Errorf("answer: %s", s)
	}
	b.must("reload")
	if s := get(); !strings.HasSuffix(s, want) {
		t.Errorf("answer after reload: %s", s)
	}
	b.conf(append(conf, "onewake_dir=/nowhere onewake_flags='-timeout soon'")...)
	b.refused("restart", "/nowhere", "soon")
	b.must("status")
	if s := get(); !strings.HasSuffix(s, want) || !alive(pid) {
		t.Errorf("answer after a restart that was refused: %s", s)
	}
	b.must("stop")
	b.gone("onewake", pid)
}

// The port's copy is the script.
func TestPortHasTheScript(t *testing.T) {
	t.Parallel()
	if read(t, "../docs/port/files/onewake.in") != read(t, "onewake") {
		t.Error("docs/port/files/onewake.in differs from rc.d/onewake")
	}
}
