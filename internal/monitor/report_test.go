package monitor

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/looptest"
	"github.com/onewake/onewake/internal/scripts"
	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

func TestServerName(t *testing.T) {
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"unix:" + filepath.Join(looptest.Dir(t), "s"): machine,
		"tcp4:127.0.0.1:0":                            "127.0.0.1",
		"tcp4:localhost:0":                            "localhost",
		"tcp4:0.0.0.0:0":                              machine,
		"tcp6:[::1]:0":                                "[::1]",
		"tcp6:[::]:0":                                 machine,
	} {
		a, err := sock.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		l, err := sock.Listen(t.Context(), a, perms.Spec{})
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		defer l.Close()
		port := "0"
		if !l.Unix() {
			port = l.Addr().String()[strings.LastIndex(l.Addr().String(), ":")+1:]
		}
		if host, p := serverName(l); host != want || p != port {
			t.Errorf("%s: %s %s, want %s %s", address, host, p, want, port)
		}
	}
}

// TestCommand checks that an unknown script is a protocol violation only without
// -scripts. With -scripts it may just have been removed.
func TestCommand(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := &monitor{Config: &cli.Config{Scripts: dir, Path: "/bin/true"}, log: slog.New(slog.DiscardHandler)}
	if cmd, err := m.command(""); err != nil || cmd.Path != m.Path {
		t.Errorf("%v, %v", cmd, err)
	}
	if _, err := m.command("a"); err == nil || errors.Is(err, control.NoScript) {
		t.Errorf("a script without -scripts: %v", err)
	}
	var err error
	if m.table, err = scripts.Read(dir); err != nil {
		t.Fatal(err)
	}
	if cmd, err := m.command("a"); err != nil || cmd.Path != file || cmd.Dir != dir {
		t.Errorf("%v, %v", cmd, err)
	}
	os.Remove(file)
	for _, name := range []string{"a", "b", "", "../a"} {
		if _, err := m.command(name); err != control.NoScript {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestFileOf checks that fileOf follows changes of the socket file.
func TestFileOf(t *testing.T) {
	path := filepath.Join(looptest.Dir(t), "s")
	l, err := sock.Listen(t.Context(), sock.Addr{Network: sock.Unix, Address: path}, perms.Spec{Mode: perms.Set(0o640)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if mode, uid, _, err := fileOf(l); mode.Perm() != 0o640 || uid != os.Geteuid() || err != nil {
		t.Errorf("%v, %d, %v", mode, uid, err)
	}
	os.Remove(path)
	if _, _, _, err := fileOf(l); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := fileOf(l); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("replaced: %v", err)
	}
}

// TestSetupHasNoSecrets checks that a core does not get the values of -env.
func TestSetupHasNoSecrets(t *testing.T) {
	m := &monitor{Config: &cli.Config{Path: "/bin/sh", Command: []string{"sh", "argument"}, Env: []string{"PATH=/secret", "A=secret=1"}}}
	s := m.setup()
	b, err := json.Marshal(s)
	if err != nil || strings.Contains(string(b), "secret") || strings.Contains(string(b), "argument") {
		t.Errorf("%s, %v", b, err)
	}
	for name, want := range map[string]bool{"A": false, "PATH": false, "QUERY_STRING": true} {
		if s.Config.Filter().Allows(name) != want {
			t.Errorf("a request may set %s: %t", name, !want)
		}
	}
	m.MaxConns = 1 << 30 // usually more than the system allows
	if need, limit := m.OpenFiles(); need > limit && (m.setup().Config.MaxConns < m.MaxConns) != (runtime.GOOS == "freebsd") {
		t.Errorf("%d connections", m.setup().Config.MaxConns)
	}
	if m.Env[1] != "A=secret=1" || m.Command[1] != "argument" {
		t.Error("setup has changed the configuration of the command")
	}
}
