//go:build linux

// Package rcd_test runs the service script with stand-ins for rc.subr(8),
// daemon(8) and the other programs of FreeBSD that it uses, as they are in 13.2
// or in 15.1. Processes, signals and pidfiles are real.
//
// testdata/rc.subr can be compared with the original, and this system's sh(1)
// with FreeBSD's, where there is one for this system:
//
//	RCSUBR_13=/path/to/13.2/rc.subr RCSUBR_15=/path/to/15.1/rc.subr RCSH=/path/to/sh go test ./rc.d
package rcd_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Each value is what rc.conf's shell has made of it.
var words = []struct {
	name, value string
	want        []string
}{
	{"plain", `/bin/a b c`, []string{"/bin/a", "b", "c"}},
	{"blanks", " /bin/a\tb\n\n  c\nd ", []string{"/bin/a", "b", "c", "d"}},
	{"the manual's example", `/usr/local/bin/foo "two words" $x`, []string{"/usr/local/bin/foo", "two words", "$x"}},
	{"single quotes", `/bin/a 'b  c' d'e'f '"' '\'`, []string{"/bin/a", "b  c", "def", `"`, `\`}},
	{"double quotes", `/bin/a "b  c" d"e"f "'" "\\" "\"" "\n" "\$x" "\` + "`" + `"`, []string{"/bin/a", "b  c", "def", "'", `\`, `"`, `\n`, "$x", "`"}},
	{"backslashes", `/bin/a b\ c \' \" \\ \n \$x \*`, []string{"/bin/a", "b c", "'", `"`, `\`, "n", "$x", "*"}},
	{"empty words", `/bin/a '' "" b''`, []string{"/bin/a", "", "", "b"}},
	{"expansions", `/bin/a $HOME ${HOME} "$HOME" $(id) "` + "`id`" + `" ` + "`id`" + ` $((1+1)) ~ ~root a=~`, []string{"/bin/a", "$HOME", "${HOME}", "$HOME", "$(id)", "`id`", "`id`", "$((1+1))", "~", "~root", "a=~"}},
	{"globs", `/bin/a * /* [a-z]* [a-z][a-z][a-z] ? {a,b}`, []string{"/bin/a", "*", "/*", "[a-z]*", "[a-z][a-z][a-z]", "?", "{a,b}"}},
	{"operators", `/bin/a ; & | < > ( ) && ! # b`, []string{"/bin/a", ";", "&", "|", "<", ">", "(", ")", "&&", "!", "#", "b"}},
	{"newlines", "/bin/a 'b\nc' \"d\ne\" f\\\ng \"h\\\ni\"", []string{"/bin/a", "b\nc", "d\ne", "fg", "hi"}},
	{"a script", `/bin/sh -c 'echo "it'\''s $1" && exit 3' sh "a b"`, []string{"/bin/sh", "-c", `echo "it's $1" && exit 3`, "sh", "a b"}},
	{"bytes", "/bin/a \xff'\xe4 \xfc' grün\\ß \\\xe4 \x81\x88", []string{"/bin/a", "\xff\xe4 \xfc", "grünß", "\xe4", "\x81\x88"}},
	{"percent and equals", `/bin/a %s A=b -x=y %%PREFIX -- -n`, []string{"/bin/a", "%s", "A=b", "-x=y", "%%PREFIX", "--", "-n"}},
	{"carriage return and form feed", "/bin/a b\rc d\fe", []string{"/bin/a", "b\rc", "d\fe"}},
	{"only blanks", " \t\n", nil},
}

// allWords are all of words behind one another, with a word between them.
func allWords() (value string, want []string) {
	for _, w := range words {
		value += w.value + " @@ "
		want = append(append(want, w.want...), "@@")
	}
	return value, want
}

func TestWords(t *testing.T) {
	t.Parallel()
	b := newBox(t, "15")
	value, _ := allWords()
	got := b.arguments("onewake_command=" + shellQuote(value))
	got = got[slices.Index(got, "--")+1:]
	for _, w := range words {
		i := slices.Index(got, "@@")
		if i < 0 {
			t.Fatalf("%s: no end in %q", w.name, got)
		}
		b.same(w.name, got[:i], w.want...)
		got = got[i+1:]
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	const (
		first  = "-f -t onewake -P ROOT/var/run/onewake.daemon.pid -p ROOT/var/run/onewake.pid "
		syslog = "-T onewake -l daemon -s info "
		chroot = "ROOT/usr/sbin/chroot -u onewake -g 1001 -G 1001,2001 / "
		last   = "ROOT/usr/local/sbin/onewake -listen unix:ROOT/var/run/onewake/onewake.sock"
		plain  = first + syslog + chroot + last
	)
	// args are the words of s, and those that have blanks.
	args := func(s string, more ...string) []string { return append(strings.Fields(s), more...) }
	b := newBox(t, "15")
	for _, test := range []struct {
		conf string
		want []string
	}{
		{"", args(plain)},
		{`onewake_listen="" onewake_command="" onewake_env="" onewake_flags="" onewake_user="" onewake_logfile="" onewake_restart_delay=No`, args(plain)},
		{`onewake_listen="unix:/a/b.sock tcp6:[::1]:80 'unix:/c d.sock'"`,
			args(first+syslog+chroot+"ROOT/usr/local/sbin/onewake -listen unix:/a/b.sock -listen tcp6:[::1]:80 -listen", "unix:/c d.sock")},
		{`onewake_scripts='ROOT/srv/cgi "bin"' onewake_protocol=fastcgi`, args(plain+" -protocol fastcgi -scripts", `ROOT/srv/cgi "bin"`)},
		{`onewake_scripts=/srv/cgi onewake_protocol=http onewake_dir=/srv onewake_flags="-stream"`, args(plain + " -protocol http -dir /srv -scripts /srv/cgi -stream")},
		{`onewake_socket_mode=0600 onewake_socket_group=gitgroup onewake_cgi=YES onewake_allow="www, :staff's"`,
			args(plain+" -socket-mode 0600 -socket-group gitgroup -allow", "www, :staff's", "-cgi")},
		{`onewake_chdir=/srv/b onewake_dir='/srv/a $b "c"' onewake_cgi=no`, args(plain+" -dir", `/srv/a $b "c"`)},
		{"onewake_chdir=/srv/b", args(plain + " -dir /srv/b")},
		{`onewake_env='A=1 B="it'\''s $two" C'`,
			slices.Concat(args(first+syslog+chroot+"ROOT/usr/bin/env A=1", "B=it's $two"), args(last+" -env A -env B -env C"))},
		{`onewake_flags='-cgi=false -content-type "text/html; x"' onewake_cgi=YES onewake_command=/bin/date`,
			args(plain+" -cgi -cgi=false -content-type", "text/html; x", "--", "/bin/date")},
		{"onewake_user=gitweb onewake_group=gitgroup onewake_groups=5,www onewake_program=ROOT/usr/local/sbin/onewake2",
			args(first + syslog + "ROOT/usr/sbin/chroot -u gitweb -g 1002 -G 1002,5,www / " + strings.Replace(last, "sbin/onewake", "sbin/onewake2", 1))},
		{"onewake_nice=5 onewake_cpuset=0-1", args(first + syslog + "ROOT/usr/bin/nice -n 5 cpuset -l 0-1 " + chroot + last)},
		{"onewake_syslog_tag='my tag' onewake_syslog_facility=local3 onewake_syslog_priority=debug onewake_restart_delay=30",
			slices.Concat(args(first+"-R 30 -T", "my tag"), args("-l local3 -s debug "+chroot+last))},
		{"onewake_logfile='ROOT/var/log/one wake.log'", slices.Concat(args(first+"-H -o", "ROOT/var/log/one wake.log"), args(chroot+last))},
	} {
		b.same(test.conf, b.arguments(test.conf), test.want...)
	}

	// rc.subr(8) lets the environment replace the flags.
	b.env = []string{"flags=-x '$y z'"}
	b.same("flags", b.arguments("onewake_flags=-z"), args(plain+" -x", "$y z")...)
	b.env = nil

	// An instance has its own variables, and the plain one's defaults.
	os.Symlink("onewake", b.path("usr/local/etc/rc.d/onewake_git"))
	b.script = "onewake_git"
	b.write("etc/rc.conf.d/onewake_git", "onewake_git_command='/bin/git http'\n")
	want := strings.NewReplacer("run/onewake", "run/onewake_git", "/onewake.sock", "/onewake_git.sock", "-t onewake", "-t onewake_git", "-T onewake", "-T onewake_git").Replace(plain)
	b.same("instance", b.arguments("onewake_command=/bin/plain onewake_user=gitweb onewake_cgi=YES onewake_flags=-x onewake_syslog_tag=plain"),
		args(want+" -- /bin/git http")...)
}

// What start refuses; nothing is started, with force or without.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := newBox(t, "13")
	for _, test := range []struct{ conf, want string }{
		{`onewake_command="/bin/a 'b"`, "onewake_command: a quote is not closed, or nothing follows the last backslash"},
		{`onewake_listen='a "b\"'`, "onewake_listen: a quote"},
		{`onewake_env='"'`, "onewake_env: a quote"},
		{`onewake_flags='a b\'`, "onewake_flags: a quote"},
		{"onewake_chroot=/jail", "onewake_chroot: not supported"},
		{"onewake_svcj=YES", "onewake_svcj: this FreeBSD has no service jails"},
		{"onewake_env_file=/nowhere", "onewake_env_file: cannot read /nowhere"},
		{"onewake_umask=999", "onewake_umask: '999'"},
		{"onewake_limits='-n many'", "ulimit"},
		{"onewake_restart_delay=soon", "onewake_restart_delay: 'soon' is neither"},
		{"onewake_restart_delay=-1", "onewake_restart_delay: '-1' is neither"},
		{"onewake_syslog_facility=deamon", "unrecognized syslog facility"},
		{"onewake_syslog_priority=loud", "unrecognized syslog priority"},
		{"onewake_logfile=/nowhere/onewake.log", "daemon: open: No such file"},
		{"onewake_prepend=/nowhere/program", "/nowhere/program"},
		{"onewake_program=/nowhere/onewake", "/nowhere/onewake"},
		{"onewake_group=nobodys", "nobodys"},
		{"onewake_user=onwake", "no user 'onwake'; to make it: pw useradd -n 'onwake' -c 'onewake daemon' -d /nonexistent -s /usr/sbin/nologin"},
	} {
		b.conf("onewake_enable=YES", test.conf)
		b.refused("start", test.want, "failed precmd routine")
	}
	b.conf("onewake_enable=YES", "onewake_command=\"/bin/a 'b\"")
	b.refused("forcestart", "onewake_command: a quote")
	if len(b.monitors()) > 0 {
		b.Error("a monitor was started")
	}
}

// One service's life, with all that is set for it.
func TestService(t *testing.T) {
	t.Parallel()
	b := newBox(t, "15")
	if out, status := b.service("start"); status != 0 || !strings.Contains(out, "Set onewake_enable to") || len(b.calls()) > 0 {
		b.Errorf("start of a service that is off: %s", out)
	}
	b.write("env", "TOKEN='top secret'\nOTHER=x\n")
	command, words := allWords()
	settings := []string{
		"onewake_enable=YES",
		`onewake_env='A=1 B="it'\''s $two" TOKEN PATH=/x'`,
		"onewake_env_file=ROOT/env",
		"onewake_limits='-n 200' onewake_login_class=staff",
		"onewake_nice=5 onewake_fib=1 onewake_cpuset=0 onewake_oomprotect=ALL onewake_umask=027 onewake_audit_user=www",
		"onewake_prepend=prepend",
	}
	b.conf(append(settings, "onewake_command="+shellQuote(command))...)
	b.refused("status", "onewake is not running.")
	b.refused("stop", "onewake not running? (check ROOT/var/run/onewake.pid).")
	if out := b.must("faststop"); out != "" {
		b.Errorf("faststop says:\n%s", out)
	}

	if out := b.must("start"); out != "Starting onewake.\n" {
		b.Errorf("start says:\n%s", out)
	}
	if !b.exists("var/run/onewake/onewake.sock") {
		b.Error("start has returned, and there is no socket")
	}
	first, daemon := b.started(), b.pid("onewake.daemon.pid")
	b.same("onewake", first.args, append([]string{"-listen", "unix:ROOT/var/run/onewake/onewake.sock", "-env", "A", "-env", "B", "-env", "TOKEN", "-env", "PATH", "--"}, words...)...)
	b.inherited(first.pid)
	env := strings.Split(read(b, fmt.Sprintf("/proc/%d/environ", first.pid)), "\x00")
	for _, want := range []string{"A=1", "B=it's $two", "TOKEN=top secret", "PATH=/x"} {
		if !slices.Contains(env, want) {
			b.Errorf("the monitor's environment has no %q: %q", want, env)
		}
	}
	// The check runs as the monitor will.
	var chain []string
	for _, c := range b.calls() {
		chain = append(chain, c.tool)
	}
	b.same("chain", chain, "install", "daemon", "limits", "prepend", "setfib", "setaudit", "cpuset", "chroot", "onewake",
		"limits", "prepend", "setfib", "setaudit", "daemon", "cpuset", "chroot", "onewake", "protect")
	b.same("install", b.lastCall("install"), "-d", "-o", "onewake", "-g", "www", "-m", "0750", "ROOT/var/run/onewake")
	b.same("limits", b.lastCall("limits")[:4], "-C", "staff", "-n", "200")
	b.same("protect", b.lastCall("protect"), "-d", "-i", "-p", strconv.Itoa(first.pid))
	b.same("-check", b.calls("onewake")[0].args, append([]string{"-check"}, first.args...)...)

	if out := b.must("status"); b.pid("onewake.pid") != first.pid || out != fmt.Sprintf("onewake is running as pid %d.\n", first.pid) {
		b.Errorf("status says %q, the monitor is %d", out, first.pid)
	}
	b.refused("start", "already running")
	if out := b.must("configtest"); out != "configuration is good\n" {
		b.Errorf("configtest says:\n%s", out)
	}
	b.must("reload")
	b.eventually("HUP", func() bool { return len(b.signals()) > 0 })

	// What is wrong takes nothing down.
	b.behave("check=78")
	for _, command := range []string{"configtest", "restart", "reload"} {
		b.refused(command, "/nowhere: no such directory")
	}
	b.behave("")
	b.same("signals", b.signals(), "HUP")
	if !alive(first.pid) || !alive(daemon) || len(b.calls("install")) != 1 {
		b.Error("the monitor or its directory was touched")
	}

	b.conf(append(settings, "onewake_logfile='ROOT/var/log/one wake.log'")...)
	b.must("restart")
	second := b.started()
	if b.pid("onewake.pid") != second.pid || slices.Contains(second.args, "--") || alive(first.pid) {
		b.Errorf("restart: %+v", second)
	}
	b.eventually("the end of the first daemon(8)", func() bool { return !alive(daemon) })
	if s := read(b, b.path("log")); s != "onewake daemon.info: msg=start\nonewake daemon.info: msg=stopped\n" {
		b.Errorf("log:\n%s", s)
	}

	// A daemon(8) that was killed leaves a monitor that can still be stopped.
	daemon = b.pid("onewake.daemon.pid")
	b.kill(daemon)
	b.eventually("its end", func() bool { return !alive(daemon) })
	b.must("status")
	if out := b.must("stop"); out != "Stopping onewake.\n" {
		b.Errorf("stop says:\n%s", out)
	}
	b.gone("onewake", daemon, second.pid)
}

// inherited checks what the settings of a service are for its monitor.
func (b *box) inherited(pid int) {
	b.Helper()
	prio, _ := syscall.Getpriority(syscall.PRIO_PROCESS, pid)
	limits, status := read(b, fmt.Sprintf("/proc/%d/limits", pid)), read(b, fmt.Sprintf("/proc/%d/status", pid))
	if 20-prio != 5 || !regexp.MustCompile(`Max open files +200 +200`).MatchString(limits) || !strings.Contains(status, "Umask:\t0027") {
		b.Errorf("nice %d, umask or limits of the monitor:\n%s\n%s", 20-prio, status, limits)
	}
}

// What is different in 13: rc.subr knows no umask, and daemon(8) does not stay
// for its child's end when it is told to end.
func TestService13(t *testing.T) {
	t.Parallel()
	b := newBox(t, "13")
	b.conf("onewake_enable=YES onewake_umask=027 onewake_limits='-n 200' onewake_nice=5")
	b.must("start")
	monitor, daemon := b.started().pid, b.pid("onewake.daemon.pid")
	b.inherited(monitor)
	b.must("stop")
	b.gone("onewake", daemon, monitor)
	if s := read(b, b.path("log")); s != "onewake daemon.info: msg=start\nonewake daemon.info: msg=stopped\n" {
		b.Errorf("log:\n%s", s)
	}
	// With a delay, it may be over before daemon(8) is told.
	b.conf("onewake_enable=YES", "onewake_restart_delay=1")
	b.must("start")
	monitor, daemon = b.started().pid, b.pid("onewake.daemon.pid")
	b.write("toolate", "")
	b.must("stop")
	b.gone("onewake", daemon, monitor, b.started().pid)
	if n := len(b.monitors()); n != 3 {
		b.Errorf("%d monitors", n)
	}
}

// newsyslog(8) signals whom docs/newsyslog.conf names.
func TestNewsyslog(t *testing.T) {
	if !strings.Contains(read(t, "../docs/newsyslog.conf"), "/var/run/onewake.daemon.pid") || !strings.Contains(read(t, "onewake"), "/var/run/${name}.daemon.pid") {
		t.Error("docs/newsyslog.conf signals something else")
	}
}

// What -check could not foresee.
func TestStart(t *testing.T) {
	t.Parallel()
	b := newBox(t, "15")
	b.conf("onewake_enable=YES")
	b.behave("start=69")
	b.write("ends", "")
	b.refused("start", "onewake is not up; its log says why (syslog, facility daemon)")
	if n := len(b.calls("sleep")); n > 1 || b.exists("var/run/onewake.daemon.pid") {
		b.Errorf("start has slept %d times beside a daemon(8) that had ended", n)
	}
	os.Remove(b.path("ends"))
	if s := read(b, b.path("log")); !strings.Contains(s, "onewake: address already in use") {
		b.Errorf("the log does not say why:\n%s", s)
	}

	// It has its socket only when start has waited for it.
	b.behave("late=yes")
	b.must("start")
	if !b.exists("var/run/onewake/onewake.sock") {
		b.Error("start did not wait for the socket")
	}
	// A crash leaves the socket; that is not the next one's.
	b.kill(b.started().pid)
	b.eventually("daemon gone", func() bool { return !b.exists("var/run/onewake.daemon.pid") })
	b.behave("dies=71")
	b.refused("start", "is not up")

	// Without a socket to look for, it has to stay.
	b.conf("onewake_enable=YES", "onewake_listen=tcp4:127.0.0.1:1 onewake_restart_delay=3600")
	b.write("pauses", "")
	b.refused("start", "is not up")
	b.conf("onewake_enable=YES", "onewake_listen=tcp4:127.0.0.1:1")
	b.behave("")
	b.must("start")
	b.must("stop")
	// There is an end to the wait.
	b.conf("onewake_enable=YES", "onewake_listen=unix:ROOT/nowhere/s")
	b.write("hurry", "")
	n := len(b.monitors())
	b.refused("start", "is not up")
	b.eventually("the monitor", func() bool { return len(b.monitors()) > n })
	b.must("stop")
	if alive(b.started().pid) {
		b.Error("the monitor is still there")
	}
}

func TestRestartDelay(t *testing.T) {
	t.Parallel()
	b := newBox(t, "15")
	b.conf("onewake_enable=YES", "onewake_restart_delay=3600")
	b.must("start")
	first, daemon := b.started().pid, b.pid("onewake.daemon.pid")
	pause := func() {
		b.kill(b.started().pid)
		b.eventually("the pause", func() bool { return b.exists("pausing") })
	}
	pause()
	b.refused("status", "onewake is not running.")
	b.refused("start", fmt.Sprintf("process already running, pid: %d", daemon))
	b.write("again", "\n")
	b.eventually("another monitor", func() bool { return b.started().pid != first && b.pid("onewake.pid") == b.started().pid })
	pause()
	b.must("stop")
	b.gone("onewake", daemon)

	// The variable may have been changed meanwhile.
	b.must("start")
	daemon = b.pid("onewake.daemon.pid")
	b.conf("onewake_enable=YES")
	b.must("stop")
	b.gone("onewake", daemon, b.started().pid)
	if n := len(b.monitors()); n != 3 {
		b.Errorf("%d monitors", n)
	}
}

// At boot, at shutdown and under `service -R` the script is sourced, and $0 is
// another's. An instance is a service of its own.
func TestBoot(t *testing.T) {
	t.Parallel()
	b := newBox(t, "15")
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
	plain, git := b.pid("onewake.pid"), b.pid("onewake_git.pid")
	if !alive(plain) || !alive(git) {
		b.Fatalf("not started: %v, %v", plain, git)
	}
	b.script = "onewake_git"
	daemon := b.pid("onewake_git.daemon.pid")
	b.must("stop")
	b.gone("onewake_git", daemon, git)
	if !alive(plain) {
		b.Error("the plain one was stopped as well")
	}
	daemon = b.pid("onewake.daemon.pid")
	if out := sourced("", "faststop"); out != "Stopping onewake.\nend\n" {
		b.Errorf("faststop says:\n%s", out)
	}
	b.gone("onewake", daemon, plain)

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
}

func TestInstanceNames(t *testing.T) {
	t.Parallel()
	b := newBox(t, "15")
	for _, name := range []string{"onewake-git", "1wake", "onewake;id", "onewake_socket", "onewake_audit"} {
		os.Symlink("onewake", b.path("usr/local/etc/rc.d/"+name))
		b.script = name
		b.refused("status", "'"+name+"' cannot name a service")
	}
	for _, name := range []string{"gitweb", "_x2"} {
		os.Symlink("onewake", b.path("usr/local/etc/rc.d/"+name))
		b.script = name
		b.must("rcvar")
	}
}

func TestServiceJail(t *testing.T) {
	t.Parallel()
	b := newBox(t, "15")
	os.Symlink("onewake", b.path("usr/local/etc/rc.d/onewake_git"))
	b.script = "onewake_git"
	b.conf("onewake_git_enable=YES onewake_git_svcj=YES onewake_git_umask=027", `onewake_git_command='/bin/a "b c"'`)
	b.must("start")
	m, daemon := b.started(), b.pid("onewake_git.daemon.pid")
	b.same("arguments", m.args[2:], "--", "/bin/a", "b c")
	if j := b.lastCall("jail"); j[len(j)-1] != "name=svcj-onewake_git" {
		b.Errorf("jail %q", j)
	}
	if n := len(b.calls("install")); n != 1 {
		b.Errorf("the directory was made %d times", n)
	}
	if !strings.Contains(read(t, fmt.Sprintf("/proc/%d/status", m.pid)), "Umask:\t0027") {
		b.Error("the monitor has another umask")
	}
	b.must("reload")
	b.must("stop")
	b.gone("onewake_git", daemon, m.pid)
	b.refused("stop", "not running?")
	b.must("faststop")
}

func TestShellcheck(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("no shellcheck")
	}
	if out, err := exec.Command("shellcheck", "-s", "sh", "onewake", "../tools/run.sh").CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

// Every variable of the script is in the manual, and every one that the header
// or the manual names is read.
func TestVariablesAreDocumented(t *testing.T) {
	t.Parallel()
	header, body, _ := strings.Cut(read(t, "onewake"), "\n. /etc/rc.subr\n")
	manual := read(t, "../docs/onewake.8")
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`\$_ow_([a-z_]+)\b|\$\{_ow_([a-z_]+)|(?:\{name\}_|onewake_words )([a-z_]+)`).FindAllStringSubmatch(body, -1) {
		used[m[1]+m[2]+m[3]] = true
	}
	_, list, _ := strings.Cut(body, "for _ow in ")
	list, _, _ = strings.Cut(list, "; do")
	for _, m := range regexp.MustCompile(`([a-z_]+)=`).FindAllStringSubmatch(list, -1) {
		if !strings.Contains(manual, "onewake_"+m[1]) && !strings.Contains(manual, "Va _"+m[1]) {
			t.Errorf("the manual says nothing about onewake_%s", m[1])
		}
		if !strings.Contains(header, "onewake_"+m[1]) && !strings.Contains(manual, "Va _"+m[1]) {
			t.Errorf("the header says nothing about onewake_%s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`onewake_([a-z_]+) \(|It Va onewake_([a-z_]+)`).FindAllStringSubmatch(header+manual, -1) {
		if v := m[1] + m[2]; !used[v] {
			t.Errorf("onewake_%s is documented, and nothing reads it", v)
		}
	}
}

// The script's flags are onewake's, and its start and stop are.
func TestRealOnewake(t *testing.T) {
	t.Parallel()
	bin, err := onewake()
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(t, "15")
	conf := []string{"onewake_enable=YES", "onewake_program=" + bin, "onewake_socket_mode=0600", "onewake_allow=root,nobody," + strconv.Itoa(os.Getuid()),
		"onewake_dir=ROOT/etc", "onewake_env='GREETING=\"two words\"'", "onewake_flags='-timeout 5s -max-procs 2'",
		`onewake_command='/bin/sh -c "pwd; echo \"\$GREETING\""'`}
	b.conf(conf...)
	if out := b.must("configtest"); !strings.Contains(out, "configuration is good") {
		t.Errorf("configtest says:\n%s", out)
	}
	b.must("start")
	pid, daemon := b.pid("onewake.pid"), b.pid("onewake.daemon.pid")
	socket, want := b.path("var/run/onewake/onewake.sock"), b.path("etc")+"\ntwo words\n"
	if s := ask(t, "unix", socket); !strings.HasSuffix(s, want) {
		t.Errorf("answer: %s", s)
	}
	b.must("reload")
	if s := ask(t, "unix", socket); !strings.HasSuffix(s, want) {
		t.Errorf("answer after reload: %s", s)
	}
	b.conf(append(conf, "onewake_dir=/nowhere onewake_flags='-timeout soon' onewake_env=NOT_SET")...)
	b.refused("restart", "/nowhere", "soon", "NOT_SET")
	if s := ask(t, "unix", socket); !strings.HasSuffix(s, want) || !alive(pid) {
		t.Errorf("answer after a restart that was refused: %s", s)
	}
	b.must("stop")
	b.gone("onewake", daemon, pid)
	if b.exists("var/run/onewake/onewake.sock") {
		t.Error("the socket is still there")
	}

	// A directory of scripts, in place of a command and not beside one.
	os.Mkdir(b.path("cgi"), 0o755)
	b.write("cgi/hello.cgi", "#!/bin/sh\n")
	os.Chmod(b.path("cgi/hello.cgi"), 0o755)
	conf = append(conf, "onewake_scripts=ROOT/cgi onewake_protocol=fastcgi")
	b.conf(append(conf, "onewake_command=")...)
	if out := b.must("configtest"); out != "script hello.cgi\nconfiguration is good\n" {
		t.Errorf("configtest says:\n%s", out)
	}
	b.conf(conf...)
	b.refused("start", "-scripts", "there is a command as well")
	b.conf("onewake_enable=YES", "onewake_program="+bin, "onewake_protocol=gopher")
	b.refused("start", "-protocol", "gopher")
}
