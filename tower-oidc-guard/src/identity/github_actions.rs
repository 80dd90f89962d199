//! The claims of the tokens of GitHub Actions.

use super::text_claims::text_claims;

text_claims! {
    /// The job of a workflow of GitHub Actions. Returned by [`Identity::github_actions`](crate::Identity::github_actions).
    ///
    /// A claim that is missing, empty or of another type than text is absent; it does not affect the other claims. Numbers, such
    /// as those of a repository or a run, are texts in these tokens.
    ///
    /// # Names are recyclable
    ///
    /// After a repository, an organization or a user is deleted or renamed, somebody else can take its name, and with it the
    /// subject (`sub`) of its tokens. The IDs are never used again within their instance (github.com, or one GitHub Enterprise
    /// Server), but two instances have the same IDs: allow members of one issuer, and identify a caller by
    /// [`repository_id`](Self::repository_id) or [`repository_owner_id`](Self::repository_owner_id), and use names for display.
    /// An administrator of a repository can also change which claims `sub` consists of.
    ///
    /// ```
    /// use tower_oidc_guard::Policy;
    ///
    /// // https://api.github.com/repos/OWNER/NAME has the ID of a repository.
    /// let github = "https://token.actions.githubusercontent.com";
    /// let policy = Policy::members_of(github, ["allAuthenticatedUsers"]).require(|caller| {
    ///     let job = caller.github_actions();
    ///     job.is_some_and(|job| {
    ///         job.repository_id() == Some("1296269")
    ///             && job.git_ref() == Some("refs/heads/main")
    ///             && job.event_name() == Some("push")
    ///     })
    /// });
    /// ```
    pub struct GitHubActionsIdentity {
        /// Returns the repository of the workflow run (`repository`), such as `octo-org/octo-repo`. It can be reused.
        repository: "repository",
        /// Returns the ID of the repository (`repository_id`), which is never reused.
        repository_id: "repository_id",
        /// Returns the organization or user that owns the repository (`repository_owner`). It can be reused.
        repository_owner: "repository_owner",
        /// Returns the ID of the owner (`repository_owner_id`), which is never reused.
        repository_owner_id: "repository_owner_id",
        /// Returns the visibility of the repository (`repository_visibility`): `public`, `internal` or `private`.
        repository_visibility: "repository_visibility",
        /// Returns the git ref that triggered the run (`ref`), such as `refs/heads/main` or, for a pull request,
        /// `refs/pull/1/merge`.
        git_ref: "ref",
        /// Returns the type of the ref (`ref_type`): `branch` or `tag`.
        ref_type: "ref_type",
        /// Returns whether the ref is protected, as text (`ref_protected`): `true` or `false`. See also
        /// [`is_ref_protected`](Self::is_ref_protected).
        ref_protected: "ref_protected",
        /// Returns the commit that triggered the run (`sha`).
        sha: "sha",
        /// Returns the source branch of a pull request (`head_ref`).
        head_ref: "head_ref",
        /// Returns the target branch of a pull request (`base_ref`).
        base_ref: "base_ref",
        /// Returns the event that triggered the run (`event_name`), such as `push`.
        ///
        /// A run for `pull_request_target` or `workflow_run` can be caused by anyone who can fork the repository.
        event_name: "event_name",
        /// Returns the environment of the job (`environment`). Protection rules of the environment apply to it.
        environment: "environment",
        /// Returns the name of the workflow (`workflow`), which anyone who can change the workflow can choose.
        workflow: "workflow",
        /// Returns the file and ref of the workflow (`workflow_ref`), such as
        /// `octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main`.
        workflow_ref: "workflow_ref",
        /// Returns the commit of the workflow's file (`workflow_sha`).
        workflow_sha: "workflow_sha",
        /// Returns the file and ref of the workflow that contains the job (`job_workflow_ref`). For a job in a reusable workflow,
        /// it is that one.
        job_workflow_ref: "job_workflow_ref",
        /// Returns the commit of the file of the workflow that contains the job (`job_workflow_sha`).
        job_workflow_sha: "job_workflow_sha",
        /// Returns the user that triggered the run (`actor`). The name can be reused.
        actor: "actor",
        /// Returns the ID of the user that triggered the run (`actor_id`), which is never reused.
        actor_id: "actor_id",
        /// Returns the ID of the run (`run_id`).
        run_id: "run_id",
        /// Returns the number of the run among those of its workflow (`run_number`).
        run_number: "run_number",
        /// Returns the number of the attempt of the run (`run_attempt`), from 1.
        run_attempt: "run_attempt",
        /// Returns where the job runs (`runner_environment`): `github-hosted` or `self-hosted`.
        runner_environment: "runner_environment",
        /// Returns the enterprise that the repository belongs to (`enterprise`).
        enterprise: "enterprise",
        /// Returns the ID of the enterprise (`enterprise_id`).
        enterprise_id: "enterprise_id",
    }
}

impl GitHubActionsIdentity {
    /// Returns whether the ref is protected: whether [`ref_protected`](Self::ref_protected) is `true`.
    pub fn is_ref_protected(&self) -> bool {
        self.ref_protected() == Some("true")
    }
}
