package cli

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/sock"
)

// parse calls Parse without the action.
func parse(args []string) (*Config, error) {
	c, _, err := Parse(args)
	return c, err
}

// TestDefaults checks the defaults of all flags.
func TestDefaults(t *testing.T) {
	o, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Listen) != 1 || o.Listen[0].String() != "unix:/var/run/onewake/onewake.sock" {
		t.Errorf("listen %v", o.Listen)
	}
	if !slices.Equal(o.Env, []string{"PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"}) {
		t.Errorf("env %q", o.Env)
	}
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"allow", o.Allow.Set, false}, {"cgi", o.CGI, false}, {"content-type", o.ContentType, "text/plain; charset=utf-8"}, {"dir", o.Dir, "/"},
		{"script-name", o.ScriptName, ""}, {"forwarded", len(o.Forwarded), 0}, {"timeout", o.Timeout, time.Minute},
		{"kill-after", o.KillAfter, 5 * time.Second}, {"max-procs", o.MaxProcs, 4 * runtime.NumCPU()}, {"max-queue", o.MaxQueue, 512},
		{"max-body", o.MaxBody, int64(16 << 20)}, {"spool-dir", o.SpoolDir, "/var/tmp"}, {"max-conns", o.MaxConns, 1024},
		{"drain", o.Drain, 10 * time.Second}, {"sandbox", o.Sandbox, true}, {"log-format", o.LogFormat, Text},
		{"access-log", o.AccessLog, true}, {"command", len(o.Command), 0},
		{"socket-mode", fmt.Sprintf("%+v", o.SocketPerms), fmt.Sprintf("%+v", modeOf(t, "0660").SocketPerms)},
	} {
		if c.got != c.want {
			t.Errorf("-%s: %v, want %v", c.name, c.got, c.want)
		}
	}
}

func modeOf(t *testing.T, mode string) *Config {
	t.Helper()
	o, err := parse([]string{"-socket-mode", mode})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestHelp checks that -h fits on one screen and lists each flag once, with its
// default.
func TestHelp(t *testing.T) {
	var b strings.Builder
	f := newFlags()
	usage(&b)
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) > 44 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if len(l) > 80 || strings.TrimSpace(l) != strings.TrimLeft(l, " ") {
			t.Errorf("%d columns: %q", len(l), l)
		}
	}
	entries := make(map[string]string)
	for _, e := range strings.Split(b.String(), "\n  -")[1:] {
		name := strings.FieldsFunc(e, func(r rune) bool { return r == ' ' || r == '=' })[0]
		if entries[name] != "" {
			t.Errorf("-%s is listed twice", name)
		}
		e, _, _ = strings.Cut(e, "\n\n")
		entries[name] = e
	}
	f.set.VisitAll(func(fl *flag.Flag) {
		e := entries[fl.Name]
		if len(e) < 30 {
			t.Errorf("-%s: %q is too short", fl.Name, e)
		}
		if shown := strings.HasSuffix(e, " ("+fl.DefValue+")"); shown != (fl.DefValue != "" && fl.DefValue != "false") {
			t.Errorf("-%s: %q, the default is %q", fl.Name, e, fl.DefValue)
		}
		delete(entries, fl.Name)
	})
	if len(entries) != 0 {
		t.Errorf("listed but do not exist: %q", entries)
	}
}

// TestBadValues checks that invalid values are rejected, with a message that has the
// flag and the value.
func TestBadValues(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	type row struct {
		flag, value string
		status      int
	}
	tests := []row{
		{"listen", "nonsense", 64}, {"listen", "", 64}, {"listen", "unix:relative", 64}, {"listen", "unix:@abstract", 64}, {"listen", "tcp4:host", 64},
		{"listen", "tcp4:127.0.0.1:99999", 64}, {"listen", "fd:x", 64}, {"listen", "fd:-1", 64}, {"listen", "unix:/" + strings.Repeat("x", 200), 64},
		{"socket-owner", "no such user", 78}, {"socket-group", "no such group", 78}, {"allow", "no such user", 78}, {"allow", ":no such group", 78}, {"allow", "", 78}, {"allow", "root,", 78},
		{"content-type", "", 64}, {"content-type", "a\r\nX: y", 64}, {"content-type", "a\x00", 64},
		{"env", "=x", 64}, {"env", "", 64}, {"env", "HTTP_PROXY=x", 64}, {"env", "HTTP_X", 64}, {"env", "QUERY_STRING=x", 64}, {"env", "OW_NOT_SET", 78},
		{"dir", "relative", 64}, {"dir", dir + "/missing", 78}, {"dir", file, 78},
		{"spool-dir", "relative", 64}, {"spool-dir", dir + "/missing", 78}, {"spool-dir", file, 78},
		{"script-name", "/caf\xe9", 64}, {"content-type", "text/\xe9", 64}, {"scripts", "sc", 64}, {"scripts", "", 64}, {"scripts", "/caf\xe9", 64},
		{"script-name", "app", 64}, {"script-name", "/app/", 64}, {"script-name", "/a?b", 64}, {"script-name", "/a#b", 64},
		{"forwarded", "Forwarded", 64}, {"forwarded", "X-Real-IP X-Forwarded-For", 64},
		{"sandbox", "no", 64}, {"sandbox", "", 64}, {"sandbox", "ON", 64}, {"log-format", "xml", 64}, {"log-format", "", 64},
	}
	for _, name := range []string{"timeout", "kill-after", "drain"} {
		for _, v := range []string{"0", "0s", "-1s", "", "5", "1y", "s", "1e9", "NaNs", "99999999999h"} {
			tests = append(tests, row{name, v, 64})
		}
	}
	for _, name := range []string{"max-procs", "max-queue", "max-conns", "max-body"} {
		for _, v := range []string{"-1", "x", "1.5", "0x10", "1_0", "99999999999999999999", " 1", "+ 1"} {
			tests = append(tests, row{name, v, 64})
		}
	}
	for _, v := range []string{"0", ""} {
		tests = append(tests, row{"max-procs", v, 64}, row{"max-body", v, 64})
	}
	tests = append(tests, row{"max-conns", "0", 64}, row{"max-queue", "", 64}, row{"max-body", "0KiB", 64}, row{"max-body", "16 MiB", 64},
		row{"max-body", "16TiB", 64}, row{"max-body", "MiB", 64}, row{"max-body", "9999999999GiB", 64})
	for _, v := range []string{"", "rw", "0888", "-1", "01777", "4755", "0x1b0", "66000"} {
		tests = append(tests, row{"socket-mode", v, 64})
	}
	for _, tt := range tests {
		_, err := parse([]string{"-" + tt.flag + "=" + tt.value})
		if err == nil {
			t.Errorf("-%s %q is accepted", tt.flag, tt.value)
			continue
		}
		if got := ExitStatus(err); got != tt.status {
			t.Errorf("-%s %q: status %d, want %d (%v)", tt.flag, tt.value, got, tt.status, err)
		}
		for _, e := range Flatten(err) {
			msg := e.Error()
			value := strings.Trim(strings.TrimPrefix(fmt.Sprintf("%q", tt.value), "+"), `"`)
			if !strings.HasPrefix(msg, "-"+tt.flag) || !strings.Contains(msg, value) || strings.ContainsAny(msg, "\r\n\x00") || strings.HasSuffix(msg, ".") {
				t.Errorf("-%s %q: %q", tt.flag, tt.value, msg)
			}
		}
	}
}

func TestGoodValues(t *testing.T) {
	t.Setenv("OW_COPIED", "a=b")
	for _, tt := range []struct {
		args []string
		ok   func(o *Config) bool
	}{
		{[]string{"-listen", "tcp4:127.0.0.1:8"}, func(o *Config) bool { return len(o.Listen) == 1 && o.Listen[0].String() == "tcp4:127.0.0.1:8" }}, // replaces the default
		{[]string{"-listen", "tcp4:127.0.0.1:8", "-listen", "unix:/a", "-listen=fd:3"}, func(o *Config) bool { return len(o.Listen) == 3 }},
		{[]string{"-listen", "tcp4:127.0.0.1:0", "-listen", "tcp4:127.0.0.1:0"}, func(o *Config) bool { return len(o.Listen) == 2 }}, // two ports
		{[]string{"-env", "A=b=c", "-env", "lower=x", "-env", "OW_COPIED", "-env=EMPTY="}, func(o *Config) bool {
			return slices.Equal(o.Env[1:], []string{"A=b=c", "lower=x", "OW_COPIED=a=b", "EMPTY="})
		}},
		{[]string{"-env", "A=1", "-env", "PATH=/x", "-env", "A=2"}, func(o *Config) bool { return slices.Equal(o.Env, []string{"PATH=/x", "A=2"}) }},
		{[]string{"-allow", "root, 7 ,:0"}, func(o *Config) bool {
			return o.Allow.Set && slices.Equal(o.Allow.UIDs, []int{0, 7}) && slices.Equal(o.Allow.GIDs, []int{0})
		}},
		{[]string{"-script-name", "/"}, func(o *Config) bool { return o.ScriptName == "" }},
		{[]string{"-script-name", "/a b/c"}, func(o *Config) bool { return o.ScriptName == "/a b/c" }},
		{[]string{"-forwarded", "x-real-ip,X-Request-Id"}, func(o *Config) bool { return slices.Equal(o.Forwarded, []string{"X-Real-IP", "X-Request-Id"}) }},
		{[]string{"-timeout=1m30s", "-kill-after", "1ms", "-drain=1h"}, func(o *Config) bool {
			return o.Timeout == 90*time.Second && o.KillAfter == time.Millisecond && o.Drain == time.Hour
		}},
		{[]string{"-timeout=5m"}, func(o *Config) bool { return o.Timeout == 5*time.Minute }}, // 5ms has a unit too
		{[]string{"-max-procs=1", "-max-queue=0", "-max-conns=1"}, func(o *Config) bool { return o.MaxProcs == 1 && o.MaxQueue == 0 && o.MaxConns == 1 }},
		{[]string{"-sandbox=off", "-log-format=json", "-access-log=false"}, func(o *Config) bool { return !o.Sandbox && o.LogFormat == JSON && !o.AccessLog }},
		{[]string{"-dir", "/usr/../tmp/"}, func(o *Config) bool { return o.Dir == "/tmp" }},
		{[]string{"-cgi", "--", "sh", "-c", "-x"}, func(o *Config) bool {
			return o.CGI && slices.Equal(o.Command, []string{"sh", "-c", "-x"}) && filepath.IsAbs(o.Path) && filepath.Base(o.Path) == "sh"
		}},
		{[]string{"/bin/sh", "-cgi"}, func(o *Config) bool { return !o.CGI && o.Path == "/bin/sh" && len(o.Command) == 2 }}, // the command's own flag
	} {
		if o, err := parse(tt.args); err != nil || !tt.ok(o) {
			t.Errorf("%q: %+v, %v", tt.args, o, err)
		}
	}
}

// TestCommand checks that the command is found and its path made absolute.
func TestCommand(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	os.WriteFile("plain", nil, 0o600)
	os.WriteFile("prog", []byte("#!/bin/sh\n"), 0o700)
	if o, err := parse([]string{"./prog", "x"}); err != nil || !filepath.IsAbs(o.Path) || filepath.Base(o.Path) != "prog" || o.Command[0] != "./prog" {
		t.Errorf("%+v, %v", o, err)
	}
	t.Setenv("PATH", "/nonexistent") // is not used
	if o, err := parse([]string{"sh"}); err != nil || !filepath.IsAbs(o.Path) {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := parse([]string{"-env", "PATH=/nonexistent:" + dir, "prog"}); err != nil || o.Path != filepath.Join(dir, "prog") {
		t.Errorf("in PATH of -env: %+v, %v", o, err)
	}
	if _, err := parse([]string{"-env", "PATH=" + dir, "sh"}); err == nil || !strings.Contains(err.Error(), "not in PATH="+dir+",") {
		t.Errorf("not in PATH of -env: %v", err)
	}
	for name, want := range map[string]string{"./plain": "not executable", "./missing": "no such file", "no-such-command": "not in PATH=/sbin", dir: "a directory"} {
		_, err := parse([]string{name})
		if err == nil || ExitStatus(err) != StatusConfig || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parse([]string{"-cgi"}); ExitStatus(err) != StatusUsage {
		t.Errorf("-cgi without a command: %v", err)
	}
}

// TestAllErrorsAtOnce checks that all errors are reported together.
func TestAllErrorsAtOnce(t *testing.T) {
	_, err := parse([]string{"-timeout=0", "-max-procs=0", "-max-body=x", "-listen=nonsense", "-listen=also", "-env==", "-env==x", "-dir=/nonexistent",
		"-socket-mode=9", "-log-format=x", "-sandbox=x", "-script-name=x", "-content-type=", "-allow=nobody-at-all", "-spool-dir=x", "/nonexistent/command"})
	if n := len(Flatten(err)); n != 16 {
		t.Errorf("%d errors: %v", n, err)
	}
	if ExitStatus(err) != StatusUsage {
		t.Errorf("status %d", ExitStatus(err))
	}
	_, err = parse([]string{"-listen=unix:/a", "-listen=unix:/a"})
	if err == nil || ExitStatus(err) != StatusUsage || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
	for _, args := range [][]string{{"-bogus"}, {"-timeout"}, {"-cgi=maybe"}, {"-access-log=x"}} {
		if o, err := parse(args); o != nil || err == nil || ExitStatus(err) != StatusUsage || !strings.Contains(err.Error(), args[0][1:4]) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestExitStatus(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("listen x: %w", err) }
	both := func(a, b error) error { return multierror.Append(nil, a, b).ErrorOrNil() }
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {usageError{errors.New("x")}, 64}, {configError{errors.New("x")}, 78}, {wrap(sock.ErrInUse), 69}, {wrap(control.ErrProtocol), 70}, {wrap(sock.ErrNotSocket), 78},
		{wrap(sock.ErrUnsafeDir), 78}, {wrap(sock.ErrBadAddr), 64}, {wrap(fs.ErrPermission), 77}, {wrap(fs.ErrNotExist), 78}, {errors.New("x"), 71},
		{both(wrap(sock.ErrInUse), usageError{errors.New("x")}), 64}, {both(wrap(fs.ErrPermission), wrap(sock.ErrNotSocket)), 78},
		{both(wrap(sock.ErrInUse), wrap(fs.ErrPermission)), 77}, {configError{fs.ErrPermission}, 78},
	} {
		if got := ExitStatus(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"1": 1, "65536": 65536, "1K": 0, "1KiB": 1024, "16MiB": 16 << 20, "3M": 0, "2GiB": 2 << 30, "1G": 0,
		"4611686018427387904": 0, "4611686018427387903": 1<<62 - 1, "4294967296GiB": 1 << 62, "4294967297GiB": 0, "007": 7} {
		if got, err := parseSize(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", in, got, err, want)
		}
	}
}

// FuzzSize checks that sizes do not overflow.
func FuzzSize(f *testing.F) {
	for _, s := range []string{"1", "16MiB", "0", "-1", "9223372036854775808", "4294967296GiB", "4294967297GiB", "1KiBKiB", "K", "", "1 K", "+1", "0x1", "1_0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize(s)
		if (err == nil) != (n > 0) || n > 1<<62 {
			t.Fatalf("%q: %d, %v", s, n, err)
		}
		if err == nil && (s[0] < '0' || s[0] > '9') {
			t.Fatalf("%q is accepted", s)
		}
	})
}

// FuzzOptions checks that no value makes the parser panic, removes a limit or sets a
// variable that requests set.
func FuzzOptions(f *testing.F) {
	f.Add("A=b", "0660", "16MiB", "60s", "8", "/app", "X-Real-IP")
	f.Add("=x", "9", "-1", "-1s", "0", "app/", "x")
	f.Add("HTTP_PROXY=x", "01777", "1e3", "1e3s", "2147483648", "/\x00", ",,")
	f.Add("PATH=\xff", "+660", "9223372036854775807", "9999999h", "00001", "/%41", "X-REAL-IP,x-real-ip")
	f.Add("HOME", "0", "1G", "1ns", "+1", "//", "")
	f.Fuzz(func(t *testing.T, env, mode, size, duration, count, script, forwarded string) {
		o, err := parse([]string{"-env=" + env, "-socket-mode=" + mode, "-max-body=" + size, "-timeout=" + duration, "-kill-after=" + duration,
			"-max-procs=" + count, "-max-conns=" + count, "-script-name=" + script, "-forwarded=" + forwarded})
		if o == nil {
			t.Fatalf("%v", err) // only unknown flags stop the parser
		}
		if err != nil {
			if s := ExitStatus(err); s != StatusUsage && s != StatusConfig {
				t.Fatalf("status %d: %v", s, err)
			}
			return
		}
		if o.MaxBody <= 0 || o.Timeout <= 0 || o.KillAfter <= 0 || o.MaxProcs < 1 || o.MaxConns < 1 {
			t.Fatalf("%+v", o)
		}
		if strings.HasSuffix(o.ScriptName, "/") || o.ScriptName != "" && o.ScriptName[0] != '/' {
			t.Fatalf("script %q", o.ScriptName)
		}
		names := make(map[string]bool)
		for _, e := range o.Env {
			name, _, ok := strings.Cut(e, "=")
			if !ok || name == "" || names[name] || strings.HasPrefix(name, "HTTP_") || strings.Contains(e, "\x00") {
				t.Fatalf("env %q", o.Env)
			}
			names[name] = true
		}
		if strings.Trim(mode, "01234567") != "" {
			t.Fatalf("mode %q", mode)
		}
	})
}
