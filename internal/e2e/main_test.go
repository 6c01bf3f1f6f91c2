//go:build freebsd || linux

package e2e

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(testMain(m, true)) }

func init() {
	roles["tell"] = roleTell
	roles["escape"] = roleEscape
	roles["page"] = rolePage
}
