//go:build freebsd || linux

// Package rcd_test runs the service script, with the built onewake. On FreeBSD it
// does so as root, with the system's rc.subr(8) and all that the script uses; on
// Linux in a directory that stands for /, with stand-ins (testdata) for rc.subr(8),
// daemon(8), limits(1) and chroot(8).
package rcd_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestService is the life of a service: what start, status, reload, restart and
// stop do, and what they do when something is wrong.
func TestService(t *testing.T) {
	t.Parallel()
	b := newBox(t, "")
	b.mkdir("srv")
	settings := []string{
		"env='GREETING=\"two words\" LIST=a=b PATH=/nowhere'", "dir=ROOT/srv", "socket_mode=0600", "nice=5", "limits='-n 500'",
		"flags='-timeout 5s -content-type \"text/html; charset=utf-8\"'", "restart_delay=1",
		`command='/bin/sh -c "pwd; echo \"\$GREETING \$LIST\"; echo \$(/bin/ps -o nice= -p \$\$); ulimit -n" "an argument"'`,
	}
	want := b.path("srv") + "\ntwo words a=b\n5\n500\n"
	if b.root != "" {
		b.conf("off")
		if out := b.must("start"); !strings.Contains(out, "Cannot 'start'") {
			t.Errorf("start of a service that is off: %s", out)
		}
	}
	b.conf(settings...)
	b.refused("stop", b.name+" not running? (check "+b.path("/var/run/"+b.name)+".pid).")
	if out := b.must("faststop"); out != "" {
		t.Errorf("faststop says:\n%s", out)
	}

	if out := b.must("start"); out != "Starting "+b.name+".\n" {
		t.Errorf("start says:\n%s", out)
	}
	answer := func(when string) {
		t.Helper()
		if s := ask(t, "unix", b.socket); !strings.HasSuffix(s, want) {
			t.Errorf("%s, answer %q, want %q", when, s, want)
		}
	}
	answer("after start")
	if out := b.must("configtest"); strings.Contains(out, "not found") || strings.Contains(out, "WARNING") {
		t.Errorf("configtest says:\n%s", out)
	}
	if fi, err := os.Stat(b.socket); err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	monitor := b.pid(".pid")
	if out := b.must("status"); out != fmt.Sprintf("%s is running as pid %d.\n", b.name, monitor) {
		t.Errorf("status says:\n%s", out)
	}
	b.must("reload")
	b.logged("reload")
	answer("after reload")

	// What is wrong takes nothing down.
	b.conf(append(settings, "dir=/nowhere", "flags='-timeout soon'")...)
	b.refused("restart", "-dir", "/nowhere", "-timeout", "soon")
	if b.pid(".pid") != monitor || b.running(".pid") != monitor {
		t.Error("the monitor is not the same after a restart that was refused")
	}
	answer("after a restart that was refused")

	// Another service cannot have the socket.
	other := newBox(t, "_other")
	other.conf("command=/bin/date", "listen=unix:"+b.socket)
	other.refused("start", other.name+"_listen: another service has unix:"+b.socket, "failed precmd routine")
	if other.running(".daemon.pid") != 0 || b.running(".pid") != monitor {
		t.Error("something was started, or the monitor is not the same")
	}

	b.conf(settings...)
	if b.root == "" { // a real daemon(8) starts a monitor again that was killed
		b.kill(monitor)
		b.eventually("another monitor", func() bool { pid := b.running(".pid"); return pid != 0 && pid != monitor && b.listens() })
		answer("after the monitor was killed")
		b.must("restart")
		answer("after restart")
		monitor = b.running(".pid")
	}
	daemon := b.running(".daemon.pid")
	if out := b.must("stop"); !strings.HasPrefix(out, "Stopping "+b.name+".\n") {
		t.Errorf("stop says:\n%s", out)
	}
	if alive(monitor) || alive(daemon) || b.listens() {
		t.Error("stop has left something running")
	}
	for _, f := range []string{b.socket, b.path("/var/run/" + b.name + ".pid"), b.path("/var/run/" + b.name + ".daemon.pid")} {
		if _, err := os.Lstat(f); err == nil {
			t.Errorf("stop has left %s", f)
		}
	}
}

// TestAddressInUse shows that start fails when another server has the address,
// and says so, and leaves nothing that would go on trying.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBox(t, "")
	b.conf("listen=tcp4:"+l.Addr().String(), "command=/bin/date")
	b.refused("start", b.name+" did not start; its log says why ("+b.log+")")
	b.logged("address already in use")
	if b.running(".pid") != 0 || b.running(".daemon.pid") != 0 {
		t.Error("something is still running")
	}
}

// TestRefused: settings that cannot work are refused before anything is started,
// by a message that names the variable and its value.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := newBox(t, "")
	for _, test := range []struct{ setting, want string }{
		{"user=onwake", "NAME_user: no user 'onwake'; to make it: pw useradd -n 'onwake' -c 'onewake daemon' -d /nonexistent -s /usr/sbin/nologin"},
		{"group=nobodys", "NAME_group: 'nobodys' is not a group"},
		{"restart_delay=soon", "NAME_restart_delay: 'soon' is neither NO nor a number of seconds"},
		{"logfile=/nowhere/onewake.log", "NAME_logfile '/nowhere/onewake.log'"},
		{"env_file=/nowhere/env", "NAME_env_file: '/nowhere/env' cannot be read"},
	} {
		b.conf(strings.Fields(test.setting)...)
		b.refused("configtest", strings.ReplaceAll(test.want, "NAME", b.name))
	}
	b.conf("logfile=", "syslog_facility=deamon")
	b.refused("start", b.name+"_syslog_facility 'deamon'", "failed precmd routine")
	if b.running(".daemon.pid") != 0 {
		t.Error("something was started")
	}
}

// TestDeath: daemon(8) starts a monitor again that has died, unless the
// configuration cannot work.
func TestDeath(t *testing.T) {
	t.Parallel()
	b := newBox(t, "_git")
	b.mkdir("cgi")
	if err := os.WriteFile(b.path("cgi/hello.cgi"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.conf("scripts=ROOT/cgi", "protocol=fastcgi", "restart_delay=1")
	b.must("start")
	daemon := b.running(".daemon.pid")
	os.RemoveAll(b.path("cgi"))
	b.kill(b.running(".pid"))
	if b.root != "" { // a real daemon(8) waits for a second only
		b.eventually("the pause of daemon(8)", func() bool { return b.running(".pid") == 0 })
		b.refused("status", "is about to start "+b.name+" again.", b.name+" is not running.")
		b.refused("start", "is about to start "+b.name+" again.")
		b.again()
	}
	b.eventually("the end of daemon(8)", func() bool { return !alive(daemon) })
	b.logged("-scripts", b.path("cgi"), "not started again; correct this, and then: service "+b.name+" start")
}

// TestInstance: the name of a service is that of the link to the script, whoever
// sources it. rc(8) and service(8) -R have their own $0.
func TestInstance(t *testing.T) {
	t.Parallel()
	b := newBox(t, "_git")
	b.conf()
	for as, variables := range map[string]string{"rc": "rc_service=" + b.script, "service": "rc_service=the_one_before file=" + b.script} {
		path := filepath.Join(b.dir, as)
		text := ". " + b.rcSubr + "\n" + variables + "\nset -- status\n. " + b.script + "\n"
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, _ := b.run(path); out != b.name+" is not running.\n" {
			t.Errorf("sourced by %s, status says %q", as, out)
		}
	}
	// service -e and -R ask for the variable that enables the service like this.
	path := filepath.Join(b.dir, "service")
	text := "rc_service=$0 file=" + b.script + "\neval `grep ^name= $file`\neval `grep ^rcvar $file`\necho $name $rcvar\n"
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, _ := b.run(path); out != b.name+" "+b.name+"_enable\n" {
		t.Errorf("service -e finds the name and variable %q", out)
	}
	for _, name := range []string{"onewake-git", "1wake", "onewake_socket"} {
		b.link(name)
		b.refused("status", "'"+name+"' cannot name a service")
	}
}

// Every variable of the script is in its header and in the manual, and both name
// no other.
func TestVariablesAreDocumented(t *testing.T) {
	t.Parallel()
	header, body, _ := strings.Cut(read(t, "onewake"), "\n. /etc/rc.subr\n")
	manual := read(t, "../docs/onewake.8")
	read := map[string]bool{}
	for _, m := range regexp.MustCompile(`\{\$\{name\}_([a-z_]+)`).FindAllStringSubmatch(strings.ReplaceAll(body, `\`, ""), -1) {
		read[m[1]] = true
	}
	ofRcSubr := []string{"groups", "nice", "program", "svcj"}
	for v := range read {
		if v == "nice" || v == "svcj" { // as for any service
			continue
		}
		if !strings.Contains(header, "onewake_"+v) && !slices.Contains(ofRcSubr, v) {
			t.Errorf("the header says nothing about onewake_%s", v)
		}
		if !strings.Contains(manual, "onewake_"+v) && !strings.Contains(manual, "Va _"+v) {
			t.Errorf("the manual says nothing about onewake_%s", v)
		}
	}
	for _, m := range regexp.MustCompile(`#\s+onewake_([a-z_]+)\s|It Va onewake_([a-z_]+)`).FindAllStringSubmatch(header+manual, -1) {
		if v := m[1] + m[2]; !read[v] {
			t.Errorf("onewake_%s is documented, and nothing reads it", v)
		}
	}
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

// newsyslog(8) signals whom docs/newsyslog.conf names.
func TestNewsyslog(t *testing.T) {
	if !strings.Contains(read(t, "../docs/newsyslog.conf"), "/var/run/onewake.daemon.pid") || !strings.Contains(read(t, "onewake"), "/var/run/${name}.daemon.pid") {
		t.Error("docs/newsyslog.conf signals something else")
	}
}
