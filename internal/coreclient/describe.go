package coreclient

// URL is the core's address as configured.
func (c *Core) URL() string { return c.base.String() }

// GrantsInContext reports whether tokens of this core carry no scope of CAPIF, so
// that the security context is the only grant.
func (c *Core) GrantsInContext() bool { return c.profile.name == "oran" }

// Profile is the name of the profile in force.
func (c *Core) Profile() string { return c.profile.name }
