package coreclient

// URL is the core's address as configured.
func (c *Core) URL() string { return c.base.String() }

// Profile is the name of the profile in force.
func (c *Core) Profile() string { return c.profile.name }
