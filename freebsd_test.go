//go:build freebsd

package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/onewake/onewake/internal/e2e"
)

// End-to-end tests that need FreeBSD: capability mode and the rights of descriptors,
// as the tools of the base system show them.

func TestMain(m *testing.M) { os.Exit(e2e.Main(m)) }

// The rights that package sandbox sets, in the abbreviations of procstat(1).
const (
	rightsServe    = "at,ev,fc,gs,pn,rd,sh,sn,ss,wr"
	rightsConverse = "ev,fc,gs,pn,rd,sh,sn,ss,wr"
)

// A core is in capability mode, its environment is empty, and it has only the
// descriptors and rights that it needs. The monitor is not in capability mode.
func TestCapabilityMode(t *testing.T) {
	t.Parallel()
	e2e.EachCore(t, func(t *testing.T, monitor int, core e2e.Process) {
		if !e2e.Confined(t, core.PID) {
			t.Error("the core is not in capability mode")
		}
		if e2e.Confined(t, monitor) {
			t.Error("the monitor is in capability mode")
		}
		title, err := exec.Command("/bin/ps", "-o", "args=", "-p", fmt.Sprint(core.PID)).Output()
		if err != nil || !strings.HasPrefix(string(title), "onewake: core") {
			t.Errorf("ps(1) shows the core as %q, %v", title, err)
		}
		if core.Environment != "" {
			t.Errorf("environment %q", core.Environment)
		}
		have := make(map[string]int)
		for _, d := range core.Descriptors {
			f := strings.SplitN(d, " ", 4) // number, type, name, rights
			switch {
			case f[0] == "0" || f[0] == "1" || f[0] == "2":
				have[f[0]+" "+f[3]]++
			case f[1] == "k":
				have["kqueue"]++
			default:
				have[f[1]+" "+f[3]]++
			}
		}
		want := map[string]int{
			"0 rd": 1, "1 wr": 1, "2 wr": 1,
			"s " + rightsServe:    3,
			"s " + rightsConverse: 1, // the control socket
			"v ":                  2, // the locks
			"kqueue":              1, // the Go runtime's poller
		}
		if !maps.Equal(have, want) {
			t.Errorf("the core has open %v, want %v", have, want)
		}
	})
}

// While a command runs the core also has the connection and the pipes, with only
// the rights that it needs.
func TestCapabilityRightsAtWork(t *testing.T) {
	t.Parallel()
	e2e.CoreAtWork(t, func(core e2e.Process) {
		allowed := strings.Split(rightsServe, ",")
		for _, d := range core.Descriptors {
			f := strings.SplitN(d, " ", 4)
			if f[1] == "k" || f[3] == "" {
				continue
			}
			for _, r := range strings.Split(f[3], ",") {
				if !slices.Contains(allowed, r) {
					t.Errorf("descriptor %s has the right %s", d, r)
				}
			}
		}
	})
}

// Each call that capability mode refuses raises SIGTRAP, which kills the core.
func TestCapabilityTrap(t *testing.T) {
	t.Parallel()
	e2e.SkipRace(t)
	proccontrol := e2e.Need(t, "proccontrol", "it is in the base system")
	e2e.Life(t, "", proccontrol, "-m", "trapcap", "-s", "enable")
}

func TestUntraceable(t *testing.T) {
	t.Parallel()
	e2e.Untraceable(t)
}
