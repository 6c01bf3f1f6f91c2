//go:build stress && linux

package e2e

import (
	"testing"
	"time"
)

// Nothing that a command has started outlives its request for long, whether it
// stays in its group or leaves it.
func TestLeftoversEndWithTheRequest(t *testing.T) {
	t.Parallel()
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			m := meet(t, cred)
			work := m.dir
			path, err := self()
			if err != nil {
				t.Fatal(err)
			}
			s := launch{cred: cred, args: append([]string{"-dir", work, "-kill-after", "500ms"}, sh(`
sleep 100 >/dev/null 2>&1 & echo $! >plain
(trap '' TERM; echo >ready; while :; do sleep .1; done) >/dev/null 2>&1 & echo $! >stubborn
`+envRole+`=escape '`+path+`' "$PWD/escapee" "$PWD/go"
while ! test -e ready -a -s escapee; do sleep .02; done
echo done`)...)}.start(t)
			s.get("/").want(t, 200, "done\n")
			began := time.Now()
			pids := []int{readPID(t, work+"/plain"), readPID(t, work+"/stubborn"), readPID(t, work+"/escapee")}
			awaitGone(t, pids...)
			t.Logf("plain, stubborn and escaped ones (%v) were gone after %v", pids, time.Since(began).Round(time.Millisecond))
			if d := time.Since(began); d > 3*time.Second {
				t.Errorf("gone after %v", d)
			}
			s.stop()
		})
	}
	t.Run("one that holds stdout", func(t *testing.T) {
		work := newDir(t, nil)
		s := shell(t, `(trap '' TERM; echo $$ >leader; while :; do sleep .1; done) & echo $! >holder; sleep .05; echo answer`, "-dir", work, "-kill-after", "1s")
		began := time.Now()
		s.get("/").want(t, 200, "answer\n")
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("answered after %v, want a grace of 1s", d)
		}
		s.stop()
		awaitGone(t, readPID(t, work+"/holder"))
	})
}
