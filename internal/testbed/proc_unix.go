//go:build unix

package testbed

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup keeps a Ctrl-C in the terminal away from the child: the parent ends
// it in order.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

func interruptSelf() {
	err := syscall.Kill(os.Getpid(), syscall.SIGINT)
	if err != nil {
		os.Exit(1)
	}
}
