//! Who asks for what, in the matrices of who may do what.

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The caller's.
    Own,
    /// Somebody else's.
    Others,
    /// Nobody's: there is none.
    Missing,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Somebody without a key.
    None,
    /// Somebody with a key that nobody made.
    Garbage,
    /// A key that is over.
    Expired,
    /// A key that is switched off.
    Blocked,
    /// A key that is nobody's.
    KeyWithoutUser,
    /// A user.
    User,
    /// The user's other key: what is the user's is this key's as well.
    UsersOtherKey,
    /// A user of another team.
    OtherTenantsUser,
    /// A member of a team.
    TeamMember,
    /// A key of that team without a user.
    TeamsOtherKey,
    /// The admin of that team.
    TeamAdmin,
    /// The admin of the other team.
    OtherTeamsAdmin,
    /// Sees everything.
    Viewer,
    /// May do everything.
    Admin,
    /// The master key.
    Master,
}

impl Who {
    /// The user of the key.
    pub fn user(self) -> Option<&'static str> {
        Some(match self {
            Who::User | Who::UsersOtherKey => "uma",
            Who::OtherTenantsUser => "otto",
            Who::TeamMember => "mia",
            Who::TeamAdmin => "ada",
            Who::OtherTeamsAdmin => "bob",
            Who::Viewer => "vera",
            Who::Admin => "adam",
            _ => return None,
        })
    }

    /// LiteLLM's name of the user's role.
    pub fn role(self) -> &'static str {
        match self {
            Who::Viewer => "proxy_admin_viewer",
            Who::Admin => "proxy_admin",
            _ => "internal_user",
        }
    }

    /// The team of the key.
    pub fn team(self) -> Option<&'static str> {
        match self {
            Who::TeamMember | Who::TeamsOtherKey | Who::TeamAdmin => Some("team-a"),
            Who::OtherTenantsUser | Who::OtherTeamsAdmin => Some("team-b"),
            _ => None,
        }
    }

    /// What the user is in that team.
    pub fn role_in_team(self) -> &'static str {
        if self.is_team_admin() { "admin" } else { "user" }
    }

    /// Whether it is the admin of a team.
    pub fn is_team_admin(self) -> bool {
        matches!(self, Who::TeamAdmin | Who::OtherTeamsAdmin)
    }

    /// Whether nobody lets them in.
    pub fn is_nobody(self) -> bool {
        matches!(self, Who::None | Who::Garbage | Who::Expired | Who::Blocked)
    }

    /// Whether they may do everything.
    pub fn is_admin(self) -> bool {
        matches!(self, Who::Admin | Who::Master)
    }

    /// Whether they see everything.
    pub fn sees_all(self) -> bool {
        self.is_admin() || self == Who::Viewer
    }
}
